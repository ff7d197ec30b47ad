"""The verbs of `c2srt <verb> [key=value …]`, and the command that knows them all.

This is the one place that sees everything: what the command line does with a verb is in
c2srt/command.py, which knows none. A new verb needs: its line in VERBS and its two functions here,
and configs/<verb>.yaml. Each function imports what it names when it is called, so that `c2srt
--help` is instant, and a mistyped key costs no library.
"""

import sys

from c2srt import command
from c2srt.verb import Verb, Work


def demo_keys() -> type:
    from c2srt.demo.config import Config

    return Config


def demo() -> Work:
    from c2srt.demo.run import run

    return run


def shard_keys() -> type:
    from c2srt.sharding.config import Config

    return Config


def shard() -> Work:
    from c2srt.cluster.shard import run

    return run


def audit_keys() -> type:
    from c2srt.sharding.config import AuditConfig

    return AuditConfig


def audit() -> Work:
    from c2srt.cluster.audit import run

    return run


def text_keys() -> type:
    from c2srt.text_config import Config

    return Config


def text() -> Work:
    from c2srt.text import run

    return run


def relations_keys() -> type:
    from c2srt.relations.kinds import GraphConfig

    return GraphConfig


def relations() -> Work:
    from c2srt.relations.build import run

    return run


def relations_mine_keys() -> type:
    from c2srt.relations.config import MineConfig

    return MineConfig


def relations_mine() -> Work:
    from c2srt.relations.mine import run

    return run


def relations_report_keys() -> type:
    from c2srt.relations.config import ReportConfig

    return ReportConfig


def relations_report() -> Work:
    from c2srt.relations.report import run

    return run


def teacher_keys() -> type:
    from c2srt.teacher.config import Config

    return Config


def teacher() -> Work:
    from c2srt.cluster.teacher import run

    return run


def plan_keys() -> type:
    from c2srt.plan.config import Config

    return Config


def plan() -> Work:
    from c2srt.plan.run import run

    return run


def train_keys() -> type:
    from c2srt.train.config import Config

    return Config


def train() -> Work:
    from c2srt.cluster.train import run

    return run


def tune_keys() -> type:
    from c2srt.tune_config import Config

    return Config


def tune() -> Work:
    from c2srt.tune import run

    return run


def messages_keys() -> type:
    from c2srt.messages.config import Config

    return Config


def messages() -> Work:
    from c2srt.messages.job import run

    return run


def evaluate_keys() -> type:
    from c2srt.evaluation.config import Config

    return Config


def evaluate() -> Work:
    from c2srt.cluster.evaluate import run

    return run


def tables_keys() -> type:
    from c2srt.tables.config import Config

    return Config


def tables() -> Work:
    from c2srt.tables.run import run

    return run


def figures_keys() -> type:
    from c2srt.figures.config import Config

    return Config


def figures() -> Work:
    from c2srt.figures.run import run

    return run


def predict_keys() -> type:
    from c2srt.predict.config import Config

    return Config


def predict() -> Work:
    from c2srt.cluster.predict import run

    return run


def bench_keys() -> type:
    from c2srt.bench.config import Config

    return Config


def bench() -> Work:
    from c2srt.bench.run import run

    return run


def check_keys() -> type:
    from c2srt.check.config import Config

    return Config


def check() -> Work:
    from c2srt.check.run import run

    return run


def backbones_keys() -> type:
    from c2srt.backbone.listing_config import Config

    return Config


def backbones() -> Work:
    from c2srt.backbone.listing import run

    return run


def export_keys() -> type:
    from c2srt.train.export_config import Config

    return Config


def export() -> Work:
    from c2srt.cluster.export import run

    return run


def init_keys() -> type:
    from c2srt.init import Config

    return Config


def init() -> Work:
    from c2srt.init import run

    return run


def doctor_keys() -> type:
    from c2srt.doctor import Config

    return Config


def doctor() -> Work:
    from c2srt.doctor import run

    return run


TRAIN = Verb("train", "train the student with DeepSpeed under Ray", train_keys, train, saves=True)
VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "demo",
            "draw the miniature and run the whole road on it, no downloads",
            demo_keys,
            demo,
            takes_jobs=True,
        ),
        Verb(
            "shard",
            "raw images + label CSVs → webdataset tar shards, index, vocabulary",
            shard_keys,
            shard,
        ),
        Verb(
            "audit",
            "re-read shards against the CSVs and name every disagreement",
            audit_keys,
            audit,
        ),
        Verb("text", "text features of every category from the frozen text tower", text_keys, text),
        Verb(
            "relations",
            "the neighbour table of the relation graph",
            relations_keys,
            relations,
            may_follow="build",
        ),
        Verb(
            "relations-mine",
            "ask a language model for the relations between categories",
            relations_mine_keys,
            relations_mine,
        ),
        Verb(
            "relations-report",
            "compare relation graphs, draw them, look categories up",
            relations_report_keys,
            relations_report,
        ),
        Verb(
            "teacher",
            "cache the frozen CLIP's global feature of every image and view",
            teacher_keys,
            teacher,
        ),
        Verb(
            "plan",
            "memory, time, disk and network of a training before anyone pays for it",
            plan_keys,
            plan,
            built_on=TRAIN,
        ),
        TRAIN,
        Verb(
            "tune",
            "prompt tuning: learn the template of a trained model (MKT's second stage)",
            tune_keys,
            tune,
        ),
        Verb(
            "messages",
            "score messages: fit what a trained model's scores of related categories say",
            messages_keys,
            messages,
        ),
        Verb(
            "evaluate",
            "ZSL and GZSL mAP and F1@K, from a checkpoint or from arrays",
            evaluate_keys,
            evaluate,
        ),
        Verb(
            "tables",
            "the paper's tables and sweeps: train and evaluate what is missing, collect",
            tables_keys,
            tables,
            takes_jobs=True,
        ),
        Verb(
            "figures",
            "the paper's figures as PNG and PDF, from models, shards and tables",
            figures_keys,
            figures,
        ),
        Verb("predict", "rank your own words for your own photos", predict_keys, predict),
        Verb(
            "bench",
            "time and memory of the head and its parts against their literal forms",
            bench_keys,
            bench,
            words=("what",),
        ),
        Verb(
            "check",
            "what this machine's GPU shows: kernels against literal forms, times, memory",
            check_keys,
            check,
            words=("what", "length"),
        ),
        Verb(
            "export",
            "one plain safetensors + config from a training checkpoint",
            export_keys,
            export,
        ),
        Verb(
            "init",
            "Slurm's job scripts, for who has the installed package and no clone",
            init_keys,
            init,
            words=("what",),
        ),
        Verb(
            "doctor",
            "what stands on this machine: versions, GPU, disk, network, and what is missing",
            doctor_keys,
            doctor,
        ),
        Verb(
            "backbones",
            "which of open_clip's models work here, and why others do not",
            backbones_keys,
            backbones,
        ),
    )
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb; returns the exit status (c2srt/command.py)."""
    return command.main(VERBS, sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
