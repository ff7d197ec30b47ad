"""The training engine: DeepSpeed, configured from our own config. The only file that imports
deepspeed.

What it promises whatever the ZeRO stage and precision: gradients are the mean over the global
batch; no update is made when the loss or a gradient is non-finite on any rank; `full_weights` are
the float32 master weights; and together with `full_moments` and `counters` they are all that
another engine needs to go on, on any number of ranks and ZeRO stage.
"""

import math
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

if not torch.cuda.is_available():
    os.environ["DS_ACCELERATOR"] = "cpu"

from c2srt.lazily import compiler_when_needed, lazily, without_compiler

with lazily({"mlflow": ()}), compiler_when_needed():  # MLflow is for its own launcher's autotuner
    import deepspeed

    with suppress(ImportError):  # every stage of ZeRO asks whether an optimizer is this one
        import deepspeed.runtime.zero.muon.muon_optimizer
import deepspeed.ops
from deepspeed.accelerator import get_accelerator
from deepspeed.utils import (
    logger,
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)

from c2srt.errors import UserError
from c2srt.order import BatchPartition
from c2srt.train.adamw import ADAMW_STEP, BETAS, EPS, GuardedAdamW
from c2srt.train.engine_config import EngineConfig
from c2srt.train.stragglers import OwnTime

logger.setLevel(
    "ERROR"
)  # it announces every setting and every skipped step; the loop says what matters

# On a CPU DeepSpeed would compile its own all-reduce over shared memory: a minute on a fresh
# machine, and segments in /dev/shm that a killed job leaves behind. Without it gloo reduces.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

for method in (torch.optim.Optimizer.add_param_group, torch.optim.Optimizer.zero_grad):
    without_compiler(method)

MOMENTS = ("exp_avg", "exp_avg_sq")
LOSS_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def check_device(precision: str) -> None:
    """Refuses a precision that DeepSpeed does not run on this worker's device. Raises UserError."""
    if precision == "fp16" and not get_accelerator().is_fp16_supported():
        raise UserError(
            "engine.precision=fp16 does not run here (no GPU, nor a CPU with AVX512-FP16): take"
            " bf16 or fp32"
        )
    if precision == "bf16" and not get_accelerator().is_bf16_supported():
        raise UserError(
            "engine.precision=bf16 does not run on this device: take fp32, or fp16 with"
            " engine.zero=1"
        )


@dataclass
class Update:
    """One optimizer step over a global batch: this rank's mean of the model's scalars, what came of
    it, and the rank's own seconds (c2srt/train/stragglers.py).
    """

    values: dict[str, float]
    applied: bool
    gradient_norm: float
    own: float = 0.0


class Engine:
    """A model under DeepSpeed. torch.distributed must be initialised; every method is called by all
    ranks together.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: list[dict],
        config: EngineConfig,
        partition: BatchPartition,
        clip_grad_norm: float = 0.0,
    ) -> None:
        """`clip_grad_norm` 0: no clipping."""
        check_device(config.precision)
        self.config, self.partition = config, partition
        own = GuardedAdamW(groups, clip_grad_norm) if config.plain else None
        if own and config.precision == "bf16":
            own.lower(model, torch.bfloat16)
        exact = {} if own or config.precision == "fp32" else float32_copies(model)
        with compiler_when_needed():
            self._engine, *_ = deepspeed.initialize(
                model=model,
                optimizer=own or make_adamw(groups, config),
                config=config.deepspeed(partition, clip_grad_norm),
                dist_init_required=False,
            )
        self.device = self._engine.device
        self._own = OwnTime(self.device)
        self._plain = own
        self._masters: dict[nn.Parameter, Tensor] = {}
        if own:
            self._engine.enable_backward_allreduce = False  # it is the optimizer's
            own.begin(self.device)
            self._masters = dict(zip(own.trained, own.masters, strict=True))
        for name, parameter in self._trainable():
            if name in exact:  # DeepSpeed makes them from weights already rounded to 16 bits
                self._set(parameter, exact[name], None)

    def train_step(self, micro_batches: Iterable[tuple], factor: float) -> Update:
        """Forward and backward over one global batch's micro-batches of this rank (exactly
        `accumulation` of them), then one update at `factor` times each group's peak learning rate.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        found, names = list[Tensor](), list[str]()
        self._engine.train()
        self._own.begin()
        for inputs in micro_batches:
            values = self._engine(*inputs)
            self._own.end()  # the last one's counts: gradients are exchanged after it
            self._engine.backward(poisoned(values["loss"]))
            if self._plain:
                self._plain.add()
            self._engine.step()
            found += [value.detach().float() for value in values.values()]
            names = [*values]
        return self._came_of(names, torch.stack(found).view(-1, len(names)).double().sum(0))

    def _came_of(self, names: list[str], sums: Tensor) -> Update:
        """The update that was just made, of this rank's sums of the model's scalars [names]."""
        norm = self._engine.get_global_grad_norm()
        norm = torch.as_tensor(0.0 if norm is None else norm)
        both = torch.cat([sums, norm.to(sums.device, torch.float64).reshape(1)])
        *values, found = both.tolist()
        applied = bool(self._engine.was_step_applied()) and math.isfinite(found)
        if not applied and self.config.offload and self.config.zero in (1, 2):
            self._engine.optimizer.averaged_gradients.clear()  # or 0.19 adds the next ones to them
        return Update(
            {
                n: value / self.partition.accumulation
                for n, value in zip(names, values, strict=True)
            },
            applied,
            found if applied else math.inf,
            self._own.seconds(),
        )

    def full_weights(self, everywhere: bool = False) -> dict[str, Tensor]:
        """The trainable parameters by name, whole, in float32, on the CPU; the ranks other than 0
        get {} unless `everywhere`.

        Frozen parameters are left out: they are the CLIP's own, and DeepSpeed's copies are rounded
        to the training precision or, under ZeRO-1, missing (DeepSpeed#5439).
        """
        return self._gather(None, everywhere)

    def full_moments(self) -> dict[str, Tensor]:
        """AdamW's state as {"exp_avg.<name>", "exp_avg_sq.<name>"}, whole, in float32, on rank 0's
        CPU ({} elsewhere).
        """
        self._allocate(0)
        return {
            f"{key}.{name}": whole for key in MOMENTS for name, whole in self._gather(key).items()
        }

    def counters(self) -> dict:
        """The rest of the optimizer's state, as plain numbers: updates applied, and in fp16 the
        loss scaler's.
        """
        applied = [int(state["step"]) for state in self._adamw.state.values()]
        found: dict[str, Any] = {"applied": max(applied, default=0)}
        if self.config.precision == "fp16":
            scaler = self._engine.optimizer.loss_scaler
            found["loss_scaler"] = {name: getattr(scaler, name) for name in LOSS_SCALER}
        return found

    def restore(self, moments: Callable[[str], Tensor], counters: dict) -> None:
        """Goes on from the `full_moments` (one by one, by name) and `counters` of an engine with
        any ranks and ZeRO stage.

        For a new engine, made of a model that already had that engine's `full_weights`.
        """
        self._allocate(counters["applied"])
        for name, parameter in self._trainable():
            for key in MOMENTS:
                self._set(parameter, moments(f"{key}.{name}"), key)
        for name, value in counters.get("loss_scaler", {}).items():
            if name in LOSS_SCALER:
                setattr(self._engine.optimizer.loss_scaler, name, value)

    def _trainable(self) -> list[tuple[str, nn.Parameter]]:
        return [
            (name, parameter)
            for name, parameter in self._engine.module.named_parameters()
            if parameter.requires_grad
        ]

    def _gather(self, key: str | None, everywhere: bool = False) -> dict[str, Tensor]:
        """By name, the trainable parameters' float32 weights (None) or the moment `key`; each rank
        holds one at a time, and those asked for in the end all.
        """
        found = {}
        for name, parameter in self._trainable():
            if self._masters:
                master = self._masters[parameter]
                whole = master if key is None else self._adamw.state[master][key]
            else:
                whole = (
                    safe_get_full_fp32_param(parameter)
                    if key is None
                    else safe_get_full_optimizer_state(parameter, key)
                )
            if everywhere or torch.distributed.get_rank() == 0:
                found[name] = whole.detach().to("cpu", torch.float32, copy=True).contiguous()
        return found

    def _set(self, parameter: Any, whole: Tensor, key: str | None) -> None:
        """Sets a parameter's float32 weights (None) or its moment `key`: each rank its own part.
        Under ZeRO-3 an nn.Parameter has what DeepSpeed adds to it.
        """
        if self._masters:
            master = self._masters[parameter]
            (master.data if key is None else self._adamw.state[master][key]).copy_(whole)
        elif (
            self.config.zero == 3
        ):  # DeepSpeed's setter of whole values fails where the ranks do not divide them
            part = own_part(whole, parameter.ds_tensor.numel())
            (
                safe_set_local_fp32_param(parameter, part)
                if key is None
                else safe_set_local_optimizer_state(parameter, part, key)
            )
        else:
            (
                safe_set_full_fp32_param(parameter, whole)
                if key is None
                else safe_set_full_optimizer_state(parameter, whole, key)
            )

    def _allocate(self, applied: int) -> None:
        """Gives every tensor that AdamW updates zero moments and a step count, as its first step
        would (where it has none).
        """
        adamw, wrapper = self._adamw, self._engine.optimizer
        plain_number = not isinstance(adamw, torch.optim.AdamW)  # DeepSpeed's own counts in an int
        for tensor in self._updated_tensors():
            if not adamw.state[tensor]:
                count = torch.tensor(float(applied), device=tensor.device if self._plain else None)
                adamw.state[tensor] = {"step": applied if plain_number else count}
                adamw.state[tensor] |= {key: torch.zeros_like(tensor) for key in MOMENTS}
        if self.config.zero in (
            1,
            2,
        ):  # DeepSpeed does it at the first group's first step, when the others have no state yet
            wrapper._hp_optimizer_states_linked = False
            wrapper._lazy_init_hp_params_optimizer_state()

    def _updated_tensors(self) -> list[Tensor]:
        """What the innermost optimizer updates on this rank: float32 weights, in ZeRO flattened and
        cut.
        """
        wrapper = self._engine.optimizer
        if self._plain:
            return self._plain.masters
        for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups"):
            if hasattr(wrapper, name):  # of ZeRO-3, and of 1 and 2
                return list(getattr(wrapper, name))
        return list(wrapper.fp32_groups_flat_partition)  # of ZeRO-1 that adds bf16 up in fp32

    @property
    def _adamw(self) -> torch.optim.Optimizer:
        """The innermost optimizer."""
        return self._plain or self._engine.optimizer.optimizer


def own_part(whole: Tensor, size: int) -> Tensor:
    """This rank's `size` elements of a tensor that ZeRO-3 flattens, fills up with zeros and
    cuts.
    """
    part = whole.flatten()[size * torch.distributed.get_rank() :][:size]
    return torch.cat([part, part.new_zeros(size - len(part))])


def float32_copies(model: nn.Module) -> dict[str, Tensor]:
    """The trainable parameters by name."""
    return {
        name: parameter.detach().float().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def make_adamw(groups: list[dict], config: EngineConfig) -> torch.optim.Optimizer:
    """torch's AdamW, which DeepSpeed wraps; with offload on a GPU machine DeepSpeed's AVX form
    (compiled on first use).
    """
    if config.offload and torch.cuda.is_available():
        return deepspeed.ops.adam.DeepSpeedCPUAdam(groups, betas=BETAS, eps=EPS, adamw_mode=True)
    adamw = torch.optim.AdamW(groups, betas=BETAS, eps=EPS)
    vars(adamw)["step"] = partial(torch.no_grad()(ADAMW_STEP), adamw)
    return adamw  # ZeRO takes this type only


def poisoned(loss: Tensor) -> Tensor:
    """The loss as it is when finite, else one whose every gradient is NaN.

    A loss may be infinite while its gradients are finite. Poisoned, it meets the one check there is
    (the gradient norm over all ranks), and ranks stay in step: each makes the same collective
    calls.
    """
    value = loss.detach()
    return loss * (value - value + 1)  # ∞ − ∞ is NaN
