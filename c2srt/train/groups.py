"""Parameter groups: which learning rate and weight decay each trainable parameter gets."""

from collections.abc import Callable

from torch import nn

from c2srt.train.key_groups import OptimizerConfig


def parameter_groups(
    model: nn.Module,
    depth: Callable[[str], int],
    config: OptimizerConfig,
) -> list[dict]:
    """AdamW groups [{"params", "lr", "peak_lr", "weight_decay"}] of the trainable parameters, in a
    fixed order.

    `head.*` trains at `head_lr`; a parameter of the tower at lr · layer_decay^depth, `depth` being
    its distance from the output (BEiT, Bao et al. 2022, app. H). Vectors and biases (norm scales
    among them) are not decayed.
    """
    groups: dict[tuple[float, float], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decayed = config.lr * config.layer_decay ** depth(name)
        peak = config.peak_of_head if name.startswith("head.") else decayed
        decay = 0.0 if parameter.dim() < 2 or name.endswith("bias") else config.weight_decay
        group = groups.setdefault(
            (peak, decay), {"params": [], "lr": peak, "peak_lr": peak, "weight_decay": decay}
        )
        group["params"].append(parameter)
    return list(groups.values())
