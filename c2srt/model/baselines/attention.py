"""Multi-head attention of plain linear layers, which ZeRO-3 gathers one by one (torch's own reaches
into its output layer).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from c2srt.errors import UserError


class Attention(nn.Module):
    """softmax(q kᵀ / √d) v for `heads` heads of d = width / heads: queries [B, Q, width], sources
    [B, R, source_width] -> [B, Q, width]. Raises UserError when the heads do not divide the width.
    """

    def __init__(self, width: int, heads: int, source_width: int | None = None) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"model.baseline.heads={heads} does not divide the width {width}")
        self.heads, source_width = heads, source_width or width
        self.query, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(source_width, width), nn.Linear(source_width, width)

    def forward(self, queries: Tensor, sources: Tensor) -> Tensor:
        query, key, value = (
            rows.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for rows in (self.query(queries), self.key(sources), self.value(sources))
        )
        return self.output(
            F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        )
