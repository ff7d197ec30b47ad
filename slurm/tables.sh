#!/bin/bash
# Tables and sweeps: trains and evaluates the rows that are missing, a worker a GPU; what is finished is not done again.
#   slurm/submit.sh --nodes=1 slurm/tables.sh      all tables, one seed, one job
#   slurm/submit.sh --array=1-8 slurm/tables.sh seeds=3      eight jobs share the rows; afterwards, anywhere:
#   c2srt tables data=openimages seeds=3 train=false                             writes the tables
#SBATCH --job-name=c2srt-tables
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --output=slurm/logs/%x-%j.log
source "${C2SRT_SITE:-slurm/site.sh}" || { echo "submit from the folder that holds slurm/: slurm/site.sh is not here"; exit 2; }
exec python -m c2srt.cluster.launch tables data=openimages data.root="$C2SRT_DATA" work="$C2SRT_WORK" \
    'commands.train=["engine.precision=bf16","loader.workers=4"]' -- "$@"
