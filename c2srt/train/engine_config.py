"""The engine's settings, apart from engine.py so that a command line can check them without
importing DeepSpeed.
"""

from dataclasses import dataclass
from typing import Any

from c2srt.errors import UserError
from c2srt.order import BatchPartition


def check_combination(precision: str, zero: int, offload: bool) -> None:
    """Refuses what DeepSpeed 0.19 cannot do on any device. Raises UserError."""
    if zero not in (0, 1, 2, 3):
        raise UserError(f"zero={zero} is not a ZeRO stage: take 0, 1, 2 or 3")
    if offload and zero == 0:
        raise UserError(
            "offload=true needs zero=1, 2 or 3: DeepSpeed offloads the sharded optimizer only"
        )
    if precision == "fp16" and zero == 0:
        raise UserError(
            "precision=fp16 needs zero=1, 2 or 3: at stage 0 DeepSpeed unscales gradients that it"
            " never scaled"
        )


@dataclass(frozen=True)
class EngineConfig:
    """clip_grad_norm 0: no clipping."""

    partition: BatchPartition
    precision: str = "fp32"
    zero: int = 0
    offload: bool = False
    clip_grad_norm: float = 0.0

    @property
    def plain(self) -> bool:
        """Whether DeepSpeed runs the optimizer as it is, without a wrapper of its own."""
        return self.zero == 0 and self.precision == "fp32"

    def deepspeed(self) -> dict:
        """DeepSpeed's own config, derived: the batch size has one source (its own counts the
        padding too).
        """
        zero: dict[str, Any] = {"stage": self.zero}
        values: dict[str, Any] = {
            "train_batch_size": self.partition.padded,
            "train_micro_batch_size_per_gpu": self.partition.micro_batch,
            "gradient_accumulation_steps": self.partition.accumulation,
            "zero_optimization": zero,
            "zero_force_ds_cpu_optimizer": False,
            "gradient_clipping": (
                0.0 if self.plain else self.clip_grad_norm
            ),  # plain: GuardedAdamW clips (the default is 1)
            "steps_per_print": 1 << 60,
        }
        if self.offload:
            zero["offload_optimizer"] = {"device": "cpu"}
        if self.precision == "bf16":
            values["bf16"] = {"enabled": True}
        if self.precision == "fp16":
            values["fp16"] = {"enabled": True, "initial_scale_power": 16, "hysteresis": 1}
        return values
