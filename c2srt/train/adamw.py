"""AdamW where nothing is sharded (ZeRO stage 0), in each precision: gradients are added up over
micro-batches and reduced over ranks in float32, and the device decides whether there is an update.

bfloat16 keeps 8 bits: a sum of many like numbers in it soon stands still. Simulated, one bfloat16
reduction over 512 ranks is off by 2.4 %, over 8 by 0.4 %, and adding up 64 micro-batches by as
much; in float32 what remains is each micro-batch's own rounding, 0.2 %, which averages out.
"""

import inspect
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

ADAMW_STEP: Any = inspect.unwrap(torch.optim.AdamW.step)
"""Without the wrapper that switches gradients off, as its callers here do, and loads torch's
compiler to tell it so.
"""
BETAS, EPS = (0.9, 0.999), 1e-8


class GuardedAdamW(torch.optim.AdamW):
    """AdamW that clips, and leaves parameters and state alone when the gradient's norm is not
    finite: the fused kernel is given both as numbers on the device, so that no step waits for them.

    Gradients are reduced by then, so every rank decides alike. `overflow` and `_global_grad_norm`
    are what DeepSpeed's engine reads from any optimizer after a step; the first would be a wait,
    and says no: who wants to know looks at the norm.
    """

    overflow = False
    grad_scale: Tensor | None = None
    found_inf: Tensor

    def __init__(self, groups: list[dict], clip_grad_norm: float) -> None:
        """`clip_grad_norm` 0: no clipping."""
        super().__init__(groups, betas=BETAS, eps=EPS, fused=True)
        self.clip_grad_norm, self.fresh = clip_grad_norm, True
        self.trained: list[nn.Parameter] = [one for group in groups for one in group["params"]]
        self.masters: list[Tensor] = [*self.trained]

    def lower(self, model: nn.Module, dtype: torch.dtype) -> None:
        """Rounds the model's parameters to `dtype`; what is updated stays float32."""
        self.masters = [parameter.detach().float().requires_grad_() for parameter in self.trained]
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)

    def begin(self, device: torch.device) -> None:
        """Takes the float32 weights to the device on which the model is by now, and makes room for
        the sum of gradients.
        """
        if self.lowered:
            self.masters = [master.detach().to(device).requires_grad_() for master in self.masters]
            masters = iter(self.masters)
            for group in self.param_groups:
                group["params"] = [next(masters) for _ in group["params"]]
        sizes = [master.numel() for master in self.masters]
        self.sum = torch.zeros(sum(sizes), device=device)
        parts = zip(self.sum.split(sizes), self.masters, strict=True)
        self.parts = [part.view_as(master) for part, master in parts]

    @property
    def lowered(self) -> bool:
        """Whether the model's parameters are roundings of what is updated."""
        return self.masters[0] is not self.trained[0]

    @torch.no_grad()
    def add(self) -> None:
        """Moves a micro-batch's gradients from the parameters to the sum."""
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.trained]
        found = torch.cat([grad.flatten() for grad in grads])
        if self.fresh:
            self.sum.copy_(found)
        else:
            self.sum.add_(found)
        self.fresh = False
        for parameter in self.trained:
            parameter.grad = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Reduces the sum over ranks, and makes an update of their mean or, where it is not finite,
        none.
        """
        if (ranks := dist.get_world_size()) > 1:
            dist.all_reduce(self.sum)
            self.sum.div_(ranks)
        norm = torch.linalg.vector_norm(self.sum)
        self._global_grad_norm, self.fresh = norm, True
        self.found_inf = (norm - norm).ne(0).float()  # ∞ − ∞ and NaN − NaN are NaN, which is not 0
        if self.clip_grad_norm:  # the kernel divides by it
            self.grad_scale = ((norm + 1e-6) / self.clip_grad_norm).clamp_(min=1)
        for master, part in zip(self.masters, self.parts, strict=True):
            master.grad = part
        ADAMW_STEP(self)
        for master in self.masters:
            master.grad = None
        if self.lowered:
            torch._foreach_copy_([*self.trained], self.masters)
