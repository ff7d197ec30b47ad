#!/bin/bash
# ZSL and GZSL results of a trained model, a worker a GPU. Scored pieces stay when it is interrupted.
#   slurm/submit.sh slurm/evaluate.sh
#   slurm/submit.sh slurm/evaluate.sh checkpoint=clip out=runs/openimages/clip
#   slurm/submit.sh --array=0-4 slurm/evaluate.sh      what that array of trainings made
#SBATCH --job-name=c2srt-evaluate
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --output=slurm/logs/%x-%j.log
source "${C2SRT_SITE:-slurm/site.sh}" || { echo "submit from the folder that holds slurm/: slurm/site.sh is not here"; exit 2; }
exec python -m c2srt.cluster.launch evaluate data=openimages data.root="$C2SRT_DATA" work="$C2SRT_WORK" -- "$@"
