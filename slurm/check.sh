#!/bin/bash
# Looks at every node of the job, as openimages.sh does before a training: which is not fit for one, and why (docs/cluster.md).
#   slurm/submit.sh --nodes=4 slurm/check.sh
#SBATCH --job-name=c2srt-check
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=slurm/logs/%x-%j.log
source "${C2SRT_SITE:-slurm/site.sh}" || { echo "submit from the folder that holds slurm/: slurm/site.sh is not here"; exit 2; }
exec python -m c2srt.cluster.launch check data=openimages data.root="$C2SRT_DATA" work="$C2SRT_WORK" -- "$@"
