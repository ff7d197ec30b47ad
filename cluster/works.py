"""What each verb of `c2srt` is made of: the dataclass of its keys, and the function that does its
work. Each function here imports what it gives when it is called, so that `c2srt --help` is instant,
and a mistyped key costs no library.
"""

from c2srt.verb import Work


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
    from c2srt.relations.smoothed import run

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


def calibrate_keys() -> type:
    from c2srt.calibration.config import Config

    return Config


def calibrate() -> Work:
    from c2srt.calibration.job import run

    return run


def evaluate_keys() -> type:
    from c2srt.evaluation.config import Config

    return Config


def evaluate() -> Work:
    from c2srt.cluster.evaluate import run

    return run


def study_keys() -> type:
    from c2srt.study.config import Config

    return Config


def study() -> Work:
    from c2srt.study.run import run

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
    from c2srt.cluster.check import run

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
