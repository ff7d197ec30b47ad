"""A learned prompt template (table 5's prompt tuning; the second stage of MKT, He et al. 2023).

Every token of the template gets an embedding of its own, first CLIP's, then learned; the start and
end tokens and the tokens of the category's name keep CLIP's. One context serves every name, also
words that no list holds.

The text tower runs over a chunk of prompts at a time, without gradients; what the loss says of the
features is then sent through the same chunks again, one after the other. The gradient is that of
one pass over all prompts, and memory is a chunk's.

Shapes: n names, u distinct prompts, L tokens, E context tokens, W width of the text tower, D joint
width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from c2srt.backbone.clip import Clip
from c2srt.backbone.prompts import SLOT, check_templates, clean
from c2srt.errors import UserError

CHUNK = 256
FROZEN = -1


@dataclass
class Prompts:
    """The prompts of n names, each distinct one once, short ones first: tokens [u, L], the context
    row at each place [u, L] (−1: CLIP's own embedding), and which prompt each name has, place [n].
    """

    tokens: Tensor
    slots: Tensor
    place: Tensor

    def chunks(self, size: int, wanted: Tensor | None = None):
        """(rows, tokens, slots) of at most `size` prompts, padding behind the longest cut; `wanted`
        [u] leaves others out.
        """
        rows = (
            torch.arange(len(self.tokens), device=self.tokens.device)
            if wanted is None
            else wanted.nonzero()[:, 0]
        )
        for part in rows.split(size):
            length = int(self.tokens[part].argmax(1).max()) + 1
            yield part, self.tokens[part, :length], self.slots[part, :length]


@dataclass
class Context:
    """`values` [E, W]: the embeddings of the template's tokens, in order, those before the name
    first.
    """

    template: str
    values: Tensor

    @staticmethod
    def of(clip: Clip, template: str) -> "Context":
        """CLIP's own embeddings of the template. Raises UserError on a template that cannot be
        learned, or a text tower that is not CLIP's causal transformer.
        """
        check_templates([template])
        if not clip.causal_text:
            raise UserError(
                "this CLIP's text tower is not the causal transformer of the first CLIP models: its"
                " prompts cannot be tuned"
            )
        ids = sum(template_ids(clip, template), [])
        if not ids:
            raise UserError(
                f"template {template!r} has no words beside {SLOT}: there is nothing to learn"
            )
        return Context(
            template, clip.embed_tokens(torch.tensor(ids, device=clip.device)).detach().clone()
        )

    def prompts(self, clip: Clip, names: list[str]) -> Prompts:
        """Prompts too long for the tower lose their end, as CLIP's do. Template and name are
        tokenised apart, so that a name can never change the template's tokens (a name that ends in
        punctuation would, before a full stop).
        """
        before, after = template_ids(clip, self.template)
        distinct = list(dict.fromkeys(map(clean, names)))
        ids = dict(zip(distinct, token_ids(clip, distinct), strict=True))
        distinct.sort(key=lambda name: len(ids[name]))
        start, end = marks(clip)
        tokens = torch.zeros(len(distinct), clip.context_length, dtype=torch.long)
        slots = torch.full_like(tokens, FROZEN)
        for row, name in enumerate(distinct):
            prompt = [start, *before, *ids[name], *after][: clip.context_length - 1] + [end]
            own = [
                FROZEN,
                *range(len(before)),
                *[FROZEN] * len(ids[name]),
                *range(len(before), len(before) + len(after)),
            ]
            tokens[row, : len(prompt)] = torch.tensor(prompt)
            slots[row, : len(prompt) - 1] = torch.tensor(own[: clip.context_length - 1])
        row_of = {name: row for row, name in enumerate(distinct)}
        place = torch.tensor([row_of[clean(name)] for name in names], dtype=torch.long)
        return Prompts(*(tensor.to(clip.device) for tensor in (tokens, slots, place)))

    def encode(self, clip: Clip, tokens: Tensor, slots: Tensor) -> Tensor:
        """Unit text features [m, D] of prompts, differentiable in `values`."""
        embedded = torch.where(
            (slots >= 0)[..., None], self.values[slots.clamp(min=0)], clip.embed_tokens(tokens)
        )
        return normalize(clip.encode_embedded(embedded, tokens.argmax(1)), dim=-1)

    @torch.no_grad()
    def features(self, clip: Clip, prompts: Prompts, chunk: int = CHUNK) -> Tensor:
        """Unit text features [n, D]; names that are equal have equal ones to the last bit."""
        found = [self.encode(clip, tokens, slots) for _, tokens, slots in prompts.chunks(chunk)]
        return torch.cat(found)[prompts.place]

    def gradient(
        self, clip: Clip, prompts: Prompts, upstream: Tensor, chunk: int = CHUNK
    ) -> Tensor:
        """The gradient [E, W] of `values`, given that of `features` [n, D]. Prompts without one are
        not run.
        """
        of_prompts = upstream.new_zeros(len(prompts.tokens), upstream.shape[1]).index_add_(
            0, prompts.place, upstream
        )
        total, values = torch.zeros_like(self.values), self.values.detach().requires_grad_()
        for rows, tokens, slots in prompts.chunks(chunk, of_prompts.any(1)):
            with torch.enable_grad():
                features = Context(self.template, values).encode(clip, tokens, slots)
                total += torch.autograd.grad(features, values, of_prompts[rows].to(features.dtype))[
                    0
                ]
        return total

    def embed(self, clip: Clip, names: list[str]) -> Tensor:
        """As `c2srt.backbone.ensemble.embed`: text features [n, D] float32 on the CPU."""
        return self.features(clip, self.prompts(clip, names)).float().cpu()


def template_ids(clip: Clip, template: str) -> tuple[list[int], list[int]]:
    """Token ids before and behind the name."""
    before, after = token_ids(clip, template.split(SLOT))
    return before, after


def token_ids(clip: Clip, texts: list[str]) -> list[list[int]]:
    """Token ids without start, end and padding; what does not fit the tower is cut where the prompt
    is put together.
    """
    return [row[1 : row.argmax()].tolist() for row in clip.tokenize(texts, clip.context_length + 2)]


def marks(clip: Clip) -> tuple[int, int]:
    """Ids of the start and end tokens."""
    return tuple(clip.tokenize([""])[0, :2].tolist())
