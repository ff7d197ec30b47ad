"""The verbs of `c2srt <verb> [key=value …]`, and the command that knows them all.

This is the one place that sees everything: what the command line does with a verb is in
c2srt/command.py, which knows none. A new verb needs its line in VERBS, its two functions in
cluster/works.py, and configs/<verb>.yaml.
"""

import sys

from c2srt import command
from c2srt.cluster import works
from c2srt.verb import Verb

TRAIN = Verb(
    "train", "train the student with DeepSpeed under Ray", works.train_keys, works.train, saves=True
)
VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "demo",
            "draw the miniature and run the whole road on it, no downloads",
            works.demo_keys,
            works.demo,
            takes_jobs=True,
        ),
        Verb(
            "shard",
            "raw images + label CSVs → webdataset tar shards, index, vocabulary",
            works.shard_keys,
            works.shard,
        ),
        Verb(
            "audit",
            "re-read shards against the CSVs and name every disagreement",
            works.audit_keys,
            works.audit,
        ),
        Verb(
            "text",
            "text features of every category from the frozen text tower",
            works.text_keys,
            works.text,
        ),
        Verb(
            "relations",
            "the neighbour table of the relation graph",
            works.relations_keys,
            works.relations,
            may_follow="build",
        ),
        Verb(
            "relations-mine",
            "ask a language model for the relations between categories",
            works.relations_mine_keys,
            works.relations_mine,
        ),
        Verb(
            "relations-report",
            "compare relation graphs, draw them, look categories up",
            works.relations_report_keys,
            works.relations_report,
        ),
        Verb(
            "teacher",
            "cache the frozen CLIP's global feature of every image and view",
            works.teacher_keys,
            works.teacher,
        ),
        Verb(
            "plan",
            "memory, time, disk and network of a training before anyone pays for it",
            works.plan_keys,
            works.plan,
            built_on=TRAIN,
        ),
        TRAIN,
        Verb(
            "tune",
            "prompt tuning: learn the template of a trained model (MKT's second stage)",
            works.tune_keys,
            works.tune,
        ),
        Verb(
            "messages",
            "score messages: fit what a trained model's scores of related categories say",
            works.messages_keys,
            works.messages,
        ),
        Verb(
            "calibrate",
            "probabilities in the place of a model's scores, and when to name a category",
            works.calibrate_keys,
            works.calibrate,
        ),
        Verb(
            "evaluate",
            "ZSL and GZSL mAP and F1@K, from a checkpoint or from arrays",
            works.evaluate_keys,
            works.evaluate,
        ),
        Verb(
            "tables",
            "the paper's tables and sweeps: train and evaluate what is missing, collect",
            works.tables_keys,
            works.tables,
            takes_jobs=True,
        ),
        Verb(
            "study",
            "the same rows in several drawn worlds: what relations bring, with intervals",
            works.study_keys,
            works.study,
            takes_jobs=True,
        ),
        Verb(
            "figures",
            "the paper's figures as PNG and PDF, from models, shards and tables",
            works.figures_keys,
            works.figures,
        ),
        Verb(
            "predict", "rank your own words for your own photos", works.predict_keys, works.predict
        ),
        Verb(
            "bench",
            "time and memory of the head and its parts against their literal forms",
            works.bench_keys,
            works.bench,
            words=("what",),
        ),
        Verb(
            "check",
            "what a machine's GPU shows of us; and whether the nodes of a cluster are fit",
            works.check_keys,
            works.check,
            words=("what", "length"),
        ),
        Verb(
            "export",
            "one plain safetensors + config from a training checkpoint",
            works.export_keys,
            works.export,
        ),
        Verb(
            "init",
            "Slurm's job scripts, for who has the installed package and no clone",
            works.init_keys,
            works.init,
            words=("what",),
        ),
        Verb(
            "doctor",
            "what stands on this machine: versions, GPU, disk, network, and what is missing",
            works.doctor_keys,
            works.doctor,
        ),
        Verb(
            "backbones",
            "which of open_clip's models work here, and why others do not",
            works.backbones_keys,
            works.backbones,
        ),
    )
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb; returns the exit status (c2srt/command.py)."""
    return command.main(VERBS, sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
