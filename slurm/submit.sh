#!/bin/bash
# Calls sbatch for the scripts of this folder: reads site.sh, and gives no GPU to the jobs that compute on CPUs alone. On the command line,
# since SBATCH_GPUS_PER_NODE and its like in the environment beat a script's #SBATCH lines, and a command line beats both.
#   slurm/submit.sh --nodes=2 --cpus-per-task=32 slurm/shard.sh key=value …      whatever sbatch takes
set -euo pipefail
source "${C2SRT_SITE:-slurm/site.sh}" || { echo "submit from the folder that holds slurm/: slurm/site.sh is not here"; exit 2; }
options=()
for word in "$@"; do
    case $word in
        shard.sh | text.sh | relations.sh | */shard.sh | */text.sh | */relations.sh)
            unset SBATCH_GPUS SBATCH_GPUS_PER_NODE SBATCH_GPUS_PER_TASK SBATCH_GRES SBATCH_CPUS_PER_GPU SBATCH_MEM_PER_GPU
            options+=(--gpus-per-node=0 ${C2SRT_CPU_OPTIONS:-})
            break ;;
        *.sh) break ;;
        -c* | --cpus-per-task*) unset SBATCH_CPUS_PER_GPU ;;  # sbatch refuses both
    esac
done
exec sbatch "${options[@]}" "$@"
