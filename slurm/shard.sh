#!/bin/bash
# Raw images and label CSVs → tar shards, a worker a CPU. Finished shards stay when it is interrupted.
#   slurm/submit.sh --nodes=2 --cpus-per-task=32 slurm/shard.sh
#SBATCH --job-name=c2srt-shard
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=0
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --output=slurm/logs/%x-%j.log
source "${C2SRT_SITE:-slurm/site.sh}" || { echo "submit from the folder that holds slurm/: slurm/site.sh is not here"; exit 2; }
exec python -m c2srt.cluster.launch shard data=openimages data.root="$C2SRT_DATA" work="$C2SRT_WORK" -- "$@"
