"""Many pictures read beside each other, ahead of the model: a thread each for what waits (files,
archives, URLs), and processes that decode and resize.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import LifoQueue
from types import TracebackType
from typing import Any

import numpy as np
import torch

from c2srt import pictures
from c2srt.isolation import Isolated
from c2srt.pictures import Limits
from c2srt.predict.inputs import LIMITS, Read, attempted, read_image
from c2srt.threads import map_in_order
from c2srt.views import centre_pixels


def pixels(data: bytes, limits: Limits, size: int) -> np.ndarray:
    """What a decoder's process does: a file's bytes -> uint8 [3, S, S]. Raises Rejected."""
    return np.ascontiguousarray(centre_pixels(pictures.decode(data, limits), size).numpy())


class Decoders:
    """`count` decoders of pictures of `size` pixels a side; as a context it leaves none."""

    def __init__(
        self, count: int, size: int, fetch: Callable[[str], bytes], waits: int = 0
    ) -> None:
        """`waits` further threads wait for URLs meanwhile."""
        self.size, self.fetch = size, fetch
        self.every = [Isolated("c2srt.predict.decoding:pixels") for _ in range(count)]
        self.idle: LifoQueue[Isolated] = LifoQueue()
        for each in self.every:
            self.idle.put(each)
        self.threads = count + 1 + waits
        self.pool = ThreadPoolExecutor(self.threads, thread_name_prefix="picture")

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        self.pool.shutdown(cancel_futures=True)
        for each in self.every:
            each.end()

    def all(self, images: Iterable[Any], batch: int) -> Iterator[Read]:
        """Every picture in order, at most a batch and two a thread ahead of whoever takes them."""
        return map_in_order(self.pool, self.one, images, batch + 2 * self.threads)

    def one(self, image: Any) -> Read:
        return attempted(
            image, lambda: torch.from_numpy(read_image(image, self.decode, self.fetch))
        )

    def decode(self, data: bytes) -> np.ndarray:
        """In whichever process is idle. Raises Rejected."""
        decoder = self.idle.get()
        try:
            return decoder(data, LIMITS, self.size)
        finally:
            self.idle.put(decoder)
