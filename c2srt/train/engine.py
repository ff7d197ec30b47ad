"""The training engine: DeepSpeed, configured from our own config. The only file that imports deepspeed.

What it promises whatever the ZeRO stage and precision: gradients are the mean over the global batch; no update is made
when the loss or a gradient is non-finite on any rank; `full_weights` are the float32 master weights.
"""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

if not torch.cuda.is_available():
    os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed
import deepspeed.ops
from deepspeed.accelerator import get_accelerator
from deepspeed.utils import logger, safe_get_full_fp32_param, safe_set_full_fp32_param

from c2srt.errors import UserError
from c2srt.train.engine_config import EngineConfig

logger.setLevel("ERROR")  # it announces every setting and every skipped step; the loop says what matters

# On a CPU DeepSpeed would compile its own all-reduce over shared memory: a minute on a fresh machine, and segments in
# /dev/shm that a killed job leaves behind. Without it gloo reduces.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

TAG = "deepspeed"
BETAS, EPS = (0.9, 0.999), 1e-8


def check_device(precision: str) -> None:
    """Refuses a precision that DeepSpeed does not run on this worker's device. Raises UserError."""
    if precision == "fp16" and not get_accelerator().is_fp16_supported():
        raise UserError("precision=fp16 does not run here (no GPU, nor a CPU with AVX512-FP16): take bf16 or fp32")
    if precision == "bf16" and not get_accelerator().is_bf16_supported():
        raise UserError("precision=bf16 does not run on this device: take fp32, or fp16 with zero=1")


class GuardedAdamW(torch.optim.AdamW):
    """AdamW that clips, and leaves parameters and state alone when the gradient's norm is not finite.

    DeepSpeed's wrappers for ZeRO and 16-bit types do this; its plain fp32 path does not. `overflow` and
    `_global_grad_norm` are what its engine reads from any optimizer after a step. Gradients are reduced by then, so
    every rank decides alike.
    """

    def __init__(self, groups: list[dict], clip_grad_norm: float) -> None:
        super().__init__(groups, betas=BETAS, eps=EPS)
        self.clip_grad_norm, self.overflow, self._global_grad_norm = clip_grad_norm, False, 0.0

    @torch.no_grad()
    def step(self, closure=None) -> None:
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.clip_grad_norm or math.inf)
        self._global_grad_norm, self.overflow = float(norm), not bool(torch.isfinite(norm))
        if not self.overflow:
            super().step()


@dataclass
class Update:
    """One optimizer step over a global batch: this rank's mean of the model's scalars, and what came of it."""

    values: dict[str, float]
    applied: bool
    gradient_norm: float


class Engine:
    """A model under DeepSpeed. torch.distributed must be initialised; every method is called by all ranks together."""

    def __init__(self, model: nn.Module, groups: list[dict], config: EngineConfig) -> None:
        check_device(config.precision)
        self.config = config
        optimizer = GuardedAdamW(groups, config.clip_grad_norm) if config.plain else make_adamw(groups, config)
        exact = {} if config.precision == "fp32" else float32_copies(model)
        self._engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config.deepspeed(),
                                                dist_init_required=False)
        self.device = self._engine.device
        self._restore_masters(exact)

    def train_step(self, micro_batches: Iterable[tuple], factor: float) -> Update:
        """Forward and backward over one global batch's micro-batches of this rank (exactly `accumulation` of them), then one
        update at `factor` times each group's peak learning rate."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        sums: dict[str, Tensor] = {}
        self._engine.train()
        for inputs in micro_batches:
            values = self._engine(*inputs)
            self._engine.backward(poisoned(values["loss"]))
            self._engine.step()
            for name, value in values.items():
                sums[name] = sums.get(name, 0) + value.detach().float() / self.config.accumulation
        norm = float(self._engine.get_global_grad_norm() or 0.0)
        applied = bool(self._engine.was_step_applied())
        return Update({name: float(value) for name, value in sums.items()}, applied, norm if applied else math.inf)

    def full_weights(self, everywhere: bool = False) -> dict[str, Tensor]:
        """The trainable parameters by name, whole, in float32, on the CPU; the ranks other than 0 get {} unless `everywhere`.

        Frozen parameters are left out: they are the CLIP's own, and DeepSpeed's copies are rounded to the training precision
        or, under ZeRO-1, missing (DeepSpeed#5439).
        """
        weights, masters = {}, self._unwrapped_masters()
        for name, parameter in self._engine.module.named_parameters():
            if parameter.requires_grad:
                whole = masters[parameter] if masters else safe_get_full_fp32_param(parameter)
                if everywhere or torch.distributed.get_rank() == 0:
                    weights[name] = whole.detach().to("cpu", torch.float32, copy=True).contiguous()
        return weights

    def _restore_masters(self, exact: dict[str, Tensor]) -> None:
        """Sets the float32 master weights to `exact`, by name: DeepSpeed makes them from weights already rounded to 16 bits.

        Its bf16 wrapper of stage 0 even takes an optimizer step with zero gradients to allocate state: AdamW would count
        it in the bias correction and decay the weights, so that state is thrown away.
        """
        if exact and self.config.zero == 0:
            self._engine.optimizer.optimizer.state.clear()
        masters = self._unwrapped_masters()
        for name, parameter in self._engine.module.named_parameters():
            if name in exact and masters:
                masters[parameter].data.copy_(exact[name])
            elif name in exact:
                safe_set_full_fp32_param(parameter, exact[name])

    def _unwrapped_masters(self) -> dict[nn.Parameter, Tensor]:
        """Float32 weights where ZeRO does not keep them (stage 0): the parameters themselves, or the bf16 wrapper's copies."""
        if self.config.plain:
            return {parameter: parameter for parameter in self._engine.module.parameters()}
        if self.config.zero == 0:
            wrapper = self._engine.optimizer
            pairs = zip(wrapper.fp16_groups, wrapper.fp32_groups)
            return {low: master for lows, masters in pairs for low, master in zip(lows, masters)}
        return {}

    def save(self, folder: Path) -> None:
        """Each rank writes its part of the optimizer's state into `folder`."""
        self._engine.save_checkpoint(str(folder), tag=TAG, save_latest=False, exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        """Restores what `save` wrote with the same world size and config."""
        path, _ = self._engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
        if path is None:
            raise UserError(f"{folder} is not a whole checkpoint: remove it and run the same command again")


def float32_copies(model: nn.Module) -> dict[str, Tensor]:
    """The trainable parameters by name."""
    return {name: parameter.detach().float().clone() for name, parameter in model.named_parameters() if parameter.requires_grad}


def make_adamw(groups: list[dict], config: EngineConfig) -> torch.optim.Optimizer:
    """torch's AdamW, which DeepSpeed wraps; with offload on a GPU machine DeepSpeed's AVX form (compiled on first use)."""
    if config.offload and torch.cuda.is_available():
        return deepspeed.ops.adam.DeepSpeedCPUAdam(groups, betas=BETAS, eps=EPS, adamw_mode=True)
    return torch.optim.AdamW(groups, betas=BETAS, eps=EPS)


def poisoned(loss: Tensor) -> Tensor:
    """The loss as it is when finite, else one whose every gradient is NaN.

    A loss may be infinite while its gradients are finite. Poisoned, it meets the one check there is (the gradient norm
    over all ranks), and ranks stay in step: each makes the same collective calls.
    """
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, math.nan).to(loss.dtype)
