"""`c2srt check cluster`: a look at every node before a training pays for them.

    coordinator (`run`)                          on every node (`probe`)
        listens, starts a probe a node    <──    connects, with the check's token, says its name
        asks in turn (`course`)           ──>    versions, machine, places, reach, links, loader
        judges (`judge`), shows (`table`) <──    one answer each

Both sides speak JSON lines over TCP (`wire`, `hub`). Each question has its time; who does not
answer in it is named and asked no more, so that the check ends whatever a node does. What starts
the probes (srun, Ray, this machine) is told by whoever calls `run`.

Standard library only on the coordinator's side: Slurm's launcher is one, outside a container. A
probe imports torch where it measures the links.
"""
