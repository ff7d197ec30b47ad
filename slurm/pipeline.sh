#!/bin/bash
# Submits the whole road, each job waiting for those before it; run it on the login node.
#   slurm/pipeline.sh
#   slurm/pipeline.sh data=miniature work=runs/miniature data.root=runs/miniature/raw -- engine.precision=fp32 schedule.epochs=1
# Keys before `--` are those that mean the same in every verb (data, work, graph, seed, …); keys behind it are for the training.
# Sizes: SHARD, TEACHER, TRAIN and EVALUATE hold options of sbatch: TRAIN="--nodes=4" slurm/pipeline.sh
set -euo pipefail
source "${C2SRT_SITE:-slurm/site.sh}"
shared=() training=()
while [ $# -gt 0 ] && [ "$1" != "--" ]; do shared+=("$1"); shift; done
[ $# -eq 0 ] || { shift; training=("$@"); }

submit() {  # submit "job:job" options script keys …: prints the new job's id
    local after=$1; shift
    slurm/submit.sh --parsable --kill-on-invalid-dep=yes ${after:+--dependency=afterok:$after} "$@" "${shared[@]}" "${extra[@]}" | cut -d';' -f1
}
extra=()
shard=$(submit "" ${SHARD:-} slurm/shard.sh)
text=$(submit "$shard" slurm/text.sh)
relations=$(submit "$text" slurm/relations.sh)
teacher=$(submit "$shard" ${TEACHER:-} slurm/teacher.sh)
extra=("${training[@]}")
train=$(submit "$relations:$teacher" ${TRAIN:-} slurm/openimages.sh)
extra=()
evaluate=$(submit "$train" ${EVALUATE:-} slurm/evaluate.sh)
echo "shard $shard, text $text, relations $relations, teacher $teacher, train $train, evaluate $evaluate"
echo "squeue --me shows them; logs are in slurm/logs/; scancel $shard takes all of them back"
