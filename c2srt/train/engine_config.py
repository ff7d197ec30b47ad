"""The engine's keys, apart from engine.py so that a command line can check them without importing
DeepSpeed.
"""

from dataclasses import dataclass
from typing import Any

from c2srt.choices import check_choice
from c2srt.errors import UserError
from c2srt.keys import Mark, key
from c2srt.order import BatchPartition

PRECISIONS = ("fp32", "bf16", "fp16")


def check_combination(precision: str, zero: int, offload: bool) -> None:
    """Refuses what DeepSpeed 0.19 cannot do on any device. Raises UserError."""
    if zero not in (0, 1, 2, 3):
        raise UserError(f"engine.zero={zero} is not a ZeRO stage: take 0, 1, 2 or 3")
    if offload and zero == 0:
        raise UserError(
            "engine.offload=true needs engine.zero=1, 2 or 3: DeepSpeed offloads the sharded"
            " optimizer only"
        )
    if precision == "fp16" and zero == 0:
        raise UserError(
            "engine.precision=fp16 needs engine.zero=1, 2 or 3: at stage 0 DeepSpeed unscales"
            " gradients that it never scaled"
        )


@dataclass
class EngineConfig:
    """Number formats, and what is sharded over the workers."""

    precision: str = key("fp32", "fp32 | bf16 | fp16 (master weights are fp32 in any case)")
    zero: int = key(
        0,
        (
            "DeepSpeed's ZeRO stage 0-3: what is sharded over workers (1 "
            "optimizer, 2 + gradients, 3 + weights)"
        ),
        mark=Mark.HARMLESS,
    )
    offload: bool = key(
        False,
        "optimizer state and update in CPU memory (zero 1-3)",
        mark=Mark.HARMLESS,
    )
    deterministic: bool = key(
        False, "only deterministic GPU kernels (a CPU run is deterministic anyway)"
    )
    tf32: bool = key(
        False, "precision=fp32 on a GPU: matrix products in TF32 (11 bits; sums stay fp32)"
    )

    def __post_init__(self) -> None:
        check_choice("engine.precision", self.precision, PRECISIONS)
        check_combination(self.precision, self.zero, self.offload)
        if self.tf32 and self.precision != "fp32":
            raise UserError(
                f"engine.tf32=true is for float32 products, engine.precision={self.precision} has"
                " 16 bits: take one of them"
            )

    @property
    def plain(self) -> bool:
        """Whether DeepSpeed runs our optimizer (c2srt/train/adamw.py) as it is, without a wrapper
        of its own; precision is the optimizer's then, too.
        """
        return self.zero == 0

    def deepspeed(self, partition: BatchPartition, clip_grad_norm: float) -> dict:
        """DeepSpeed's own config, derived: the batch size has one source (its own counts the
        padding too). `clip_grad_norm` 0: no clipping.
        """
        zero: dict[str, Any] = {"stage": self.zero}
        values: dict[str, Any] = {
            "train_batch_size": partition.padded,
            "train_micro_batch_size_per_gpu": partition.micro_batch,
            "gradient_accumulation_steps": partition.accumulation,
            "zero_optimization": zero,
            "zero_force_ds_cpu_optimizer": False,
            "gradient_clipping": (
                0.0 if self.plain else clip_grad_norm
            ),  # plain: GuardedAdamW clips (the default is 1)
            "steps_per_print": 1 << 60,
            "timers": {"throughput": {"enabled": False}},  # it waits for the device twice a step
        }
        if self.offload:
            zero["offload_optimizer"] = {"device": "cpu"}
        if self.precision == "bf16" and not self.plain:
            values["bf16"] = {"enabled": True}
            values["communication_data_type"] = "fp32"  # see c2srt/train/adamw.py
            values["data_types"] = {"grad_accum_dtype": "fp32"}
        if self.precision == "fp16":
            values["fp16"] = {"enabled": True, "initial_scale_power": 16, "hysteresis": 1}
        return values
