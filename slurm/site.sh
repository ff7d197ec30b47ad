# Everything that differs from one cluster to another. Fill it in once: slurm/submit.sh and slurm/pipeline.sh read it, and the job
# scripts read it again on the nodes. C2SRT_SITE names another file instead of this one.

# --- What sbatch should ask for. Any of it can also be given in a line: `slurm/submit.sh --nodes=4 slurm/openimages.sh`.
# export SBATCH_PARTITION=gpu
# export SBATCH_ACCOUNT=my-project
# export SBATCH_QOS=normal
# export SBATCH_TIMELIMIT=24:00:00
# The jobs with GPUs (teacher, train, evaluate, tables):
# export SBATCH_GPUS_PER_NODE=4
# export SBATCH_CPUS_PER_GPU=12          # at least 1 a GPU; a training with loader.workers=4 keeps 5 busy
# export SBATCH_MEM_PER_GPU=64G          # where memory is rationed: 3 GB a worker, the model's share of it (`c2srt plan`), the loaders
# The jobs without (shard, text, relations), for which slurm/submit.sh takes the three above away:
# export C2SRT_CPU_OPTIONS="--cpus-per-task=32 --mem-per-cpu=2G"

# --- Where things are, on storage that all nodes share.
export C2SRT_DATA=${C2SRT_DATA:-/data/openimages}          # the raw input: label CSVs and images
export C2SRT_WORK=${C2SRT_WORK:-runs/openimages}           # everything that is made
export C2SRT_LOGS=${C2SRT_LOGS:-slurm/logs}                # Ray's logs of each job (the job's own is sbatch's --output)
export C2SRT_TMP=${C2SRT_TMP:-/tmp}                        # on each node's own disk, a short path; also for compiled kernels

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
# export C2SRT_CHECK_SECONDS=0           # no look at the nodes before a training; its limit is 90
# export C2SRT_DASHBOARD_HOST=127.0.0.1  # Ray's dashboard runs code for whoever reaches it and has the token; none: no dashboard
# export MLFLOW_TRACKING_URI=http://…    # default: a sqlite file in the work folder
