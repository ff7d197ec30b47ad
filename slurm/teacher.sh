#!/bin/bash
# The frozen CLIP's features of every image and view, a worker a CPU (they share the GPUs). Finished shards stay.
#   slurm/submit.sh slurm/teacher.sh
#SBATCH --job-name=c2srt-teacher
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --output=slurm/logs/%x-%j.log
source "${C2SRT_SITE:-slurm/site.sh}" || { echo "submit from the folder that holds slurm/: slurm/site.sh is not here"; exit 2; }
exec python -m c2srt.cluster.launch teacher data=openimages data.root="$C2SRT_DATA" work="$C2SRT_WORK" -- "$@"
