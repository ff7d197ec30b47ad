"""The dataclass of each verb's keys. Each lies beside what it configures, and imports no torch, Ray
or open_clip, so that a mistyped key costs no library.
"""

from importlib import import_module

CLASSES = {
    "demo": "c2srt.demo.config:Config",
    "shard": "sharding.config:Config",
    "audit": "sharding.config:AuditConfig",
    "text": "c2srt.text_config:Config",
    "relations": "c2srt.relations.kinds:GraphConfig",
    "relations-mine": "c2srt.relations.config:MineConfig",
    "relations-report": "c2srt.relations.config:ReportConfig",
    "teacher": "c2srt.teacher.config:Config",
    "plan": "c2srt.plan.config:Config",
    "train": "c2srt.train.config:Config",
    "tune": "c2srt.tune_config:Config",
    "evaluate": "c2srt.evaluation.config:Config",
    "tables": "c2srt.tables.config:Config",
    "figures": "c2srt.figures.config:Config",
    "predict": "c2srt.predict.config:Config",
    "bench": "c2srt.bench.config:Config",
    "check": "c2srt.check.config:Config",
    "export": "c2srt.train.export_config:Config",
}
BUILT_ON = {"plan": "train"}
"""Verbs whose keys are those of another verb, and more."""


def config_class(verb: str) -> type:
    """The dataclass of the verb's keys."""
    module, _, name = CLASSES[verb].partition(":")
    return getattr(import_module(module), name)
