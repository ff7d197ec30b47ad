#!/bin/bash
# Trains on Open Images, a worker a GPU, once the nodes have been looked at (docs/cluster.md); given back to the queue near its time limit, it goes on where it was.
#   slurm/submit.sh --nodes=2 slurm/openimages.sh
#   slurm/submit.sh --nodes=2 slurm/openimages.sh schedule.epochs=4 out=runs/openimages/short      keys of `c2srt train`
#   slurm/submit.sh --array=0-4 slurm/openimages.sh      five seeds
#   slurm/submit.sh --array=1-6 slurm/openimages.sh --rows slurm/ablations.txt      a row of the file each
#   slurm/submit.sh --nodes=2 slurm/openimages.sh schedule=paper out=runs/openimages/paper      the paper's batch of 64
#   slurm/submit.sh slurm/openimages.sh data=miniature work=runs/miniature engine.precision=fp32      another data set
# Without schedule=… this is schedule=openimages_large: the paper's 8 epochs, but batches of 512 (an eighth of the updates), which keep
# more GPUs busy than the paper's 64; what they do to accuracy was not studied.
#SBATCH --job-name=c2srt-train
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --output=slurm/logs/%x-%j.log
source "${C2SRT_SITE:-slurm/site.sh}" || { echo "submit from the folder that holds slurm/: slurm/site.sh is not here"; exit 2; }
exec python -m c2srt.cluster.launch train data=openimages data.root="$C2SRT_DATA" work="$C2SRT_WORK" engine.precision=bf16 loader.workers=4 -- "$@"
