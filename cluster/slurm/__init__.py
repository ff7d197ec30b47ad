"""What cluster/launch.py does inside a Slurm job.

Reading order: `site` (settings, outcomes), `keys` (what to run, and how wide), `nodes` (Ray on the
allocation), `job` (one command on it), `requeue` (Slurm's queue). Standard library only.
"""
