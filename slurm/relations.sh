#!/bin/bash
# The neighbour table of the relation graph; one process, no Ray, seconds.
#   slurm/submit.sh slurm/relations.sh
#   slurm/submit.sh slurm/relations.sh graph=similarity
#SBATCH --job-name=c2srt-relations
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=0
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --output=slurm/logs/%x-%j.log
source "${C2SRT_SITE:-slurm/site.sh}" || { echo "submit from the folder that holds slurm/: slurm/site.sh is not here"; exit 2; }
exec python -m c2srt.cluster.launch relations data=openimages data.root="$C2SRT_DATA" work="$C2SRT_WORK" -- "$@"
