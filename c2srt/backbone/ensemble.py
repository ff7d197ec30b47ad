"""Text features of names from an ensemble of prompts (eq. 3, 24): the mean over the templates of
the L2-normalised prompt embeddings, L2-normalised again.

Letters: n names, D joint width.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from c2srt.backbone.prompts import prompts_of
from c2srt.backbone.protocol import Backbone
from c2srt.progress import Progress


def embed(
    clip: Backbone,
    names: list[str],
    templates: list[str],
    batch: int = 256,
    progress: Progress | None = None,
) -> Tensor:
    """Eq. 3: names -> text features [n, D] float32 on the CPU, L2-normalised; `batch` prompts pass
    the tower at a time.
    """
    texts = prompts_of(names, templates)
    sums = torch.zeros(len(names), clip.tower.width)
    for start in range(0, len(texts), batch):
        part = texts[start : start + batch]
        embeddings = normalize(clip.encode_texts(part).float(), dim=-1).cpu()
        owner = torch.arange(start, start + len(part)) // len(templates)
        sums.index_add_(0, owner, embeddings)
        if progress:
            progress.update(len(part))
    return normalize(sums, dim=-1)


def count_cut(clip: Backbone, names: list[str], templates: list[str], step: int = 1024) -> int:
    """How many names have a prompt longer than the tower's context, whose end is therefore not
    read.

    Tokens of the name and of the template add up, so the longest template decides.
    """
    longest = max(templates, key=lambda template: clip.count_tokens([template])[0])
    cut = 0
    for start in range(0, len(names), step):
        counts = clip.count_tokens(prompts_of(names[start : start + step], [longest]))
        cut += sum(count > clip.context_length for count in counts)
    return cut
