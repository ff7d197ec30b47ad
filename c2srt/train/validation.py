"""mAP on the validation split while training: chooses `<out>/best`.

The choice looks at seen categories only: choosing by unseen ones would not be zero-shot. Theirs is
recorded beside it.
"""

import copy
from pathlib import Path

import numpy as np
from torch import Tensor

from c2srt.errors import UserError
from c2srt.evaluation.metric_state import measure, merge
from c2srt.evaluation.protocols import per_class, sorted_keys
from c2srt.export.write import save_export
from c2srt.model.network import Network
from c2srt.train.config import Config
from c2srt.train.inputs import Inputs, load_trained
from c2srt.train.sources import validation_batches
from c2srt.train.world import World


class Validator:
    """Holds a plain float32 copy of the model (never wrapped, so nothing is sharded) and scores the
    split's share of a rank. The first rank's keeps the CLIP, too, and exports: the others wait for
    it, and reading and hashing the CLIP again would take longer than the rest.
    """

    def __init__(self, config: Config, inputs: Inputs, model: Network, world: World) -> None:
        self.config, self.inputs, self.model = config, inputs, copy.deepcopy(model)
        self.clip = inputs.clip if world.first else None

    def measure(self, weights: dict[str, Tensor], world: World) -> dict[str, float]:
        """{"mAP" (per_class over seen categories), "unseen_mAP" (if any), "images"} of all ranks
        together.
        """
        load_trained(self.model, weights, "the engine")
        model = self.model.to(world.device).eval()
        seen = np.arange(len(self.inputs.vocabulary)) < self.inputs.vocabulary.seen_count
        states = []
        for images, labels in validation_batches(self.config, self.inputs, world):
            scores, _ = model.scores(images.to(world.device))
            states.append(measure(scores.float().cpu().numpy(), labels.numpy(), seen, (1,)))
        whole = merge([state for rank in world.gather(states) for state in rank])
        self.model.to("cpu")
        precision = per_class(sorted_keys(whole), seen, "gzsl")
        if not np.isfinite(precision[seen]).any():
            raise UserError(
                "no validation image has a positive of a seen category: set validation.every=0, or"
                " pack more of the split"
            )
        values = {
            "mAP": mean(precision[seen]),
            "unseen_mAP": mean(precision[~seen]),
            "images": float(whole.images),
        }
        return {name: value for name, value in values.items() if np.isfinite(value)}

    def export(self, folder: Path, made_from: dict) -> None:
        """Writes the model with the weights that were measured last. Only the first rank can."""
        assert self.clip is not None
        save_export(
            folder,
            self.model,
            self.model.state_dict(),
            self.clip,
            self.inputs.vocabulary,
            self.inputs.templates,
            made_from,
        )


def mean(precision: np.ndarray) -> float:
    """Over the categories that have one; NaN when none has."""
    return float(np.nanmean(precision)) if np.isfinite(precision).any() else float("nan")
