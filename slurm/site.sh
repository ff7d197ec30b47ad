# Everything that differs from one cluster to another. Fill it in once, then `source slurm/site.sh` in the shell you submit from;
# the job scripts source it again on the nodes. C2SRT_SITE names another file instead of this one.

# --- What sbatch should ask for. Any option of a script can also be given to sbatch: `sbatch --nodes=4 slurm/openimages.sh`.
# export SBATCH_PARTITION=gpu
# export SBATCH_ACCOUNT=my-project
# export SBATCH_QOS=normal
# export SBATCH_GPUS_PER_NODE=4          # the CPU jobs (shard, text, relations) unset it
# export SBATCH_TIMELIMIT=24:00:00

# --- Where things are, on storage that all nodes share.
export C2SRT_DATA=${C2SRT_DATA:-/data/openimages}          # the raw input: label CSVs and images
export C2SRT_WORK=${C2SRT_WORK:-runs/openimages}           # everything that is made
export C2SRT_LOGS=${C2SRT_LOGS:-slurm/logs}                # Ray's logs of each job (the job's own is sbatch's --output)
export C2SRT_TMP=${C2SRT_TMP:-/tmp}                        # on each node's own disk, a short path

# --- Python with c2srt in it: modules and a virtual environment …
# module load gcc cuda
[ ! -e .venv/bin/activate ] || source .venv/bin/activate
# … or a container, put before every command that runs on the nodes (Python 3.11 without packages is enough outside)
# export C2SRT_RUN="apptainer exec --nv --bind /data /containers/c2srt.sif"

# --- Rarely needed.
# export C2SRT_INTERFACE=ib0             # the network for Ray, when a node's name resolves to another one …
# export GLOO_SOCKET_IFNAME=ib0 NCCL_SOCKET_IFNAME=ib0     # … and for torch
# export C2SRT_CPU_WORKERS=2             # training workers a node without GPUs (default 1)
# export C2SRT_MAX_REQUEUES=20           # default 100
# export C2SRT_SAVE_SECONDS=240          # for saving after the signal; less than the 300 of `--signal` in the scripts
# export C2SRT_JOIN_SECONDS=180          # for all nodes to join Ray
# export C2SRT_DASHBOARD_HOST=127.0.0.1  # Ray's dashboard runs code for whoever reaches it and has the token; none: no dashboard
# export MLFLOW_TRACKING_URI=http://…    # default: a sqlite file in the work folder
