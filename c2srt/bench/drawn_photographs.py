"""JPEGs as a camera's reduced ones, drawn: smooth, with some grain, 190 kB each."""

from pathlib import Path

import numpy as np
import simplejpeg

COUNT = 192
SIDES = (768, 1024)


def photographs(folder: Path, seed: int) -> list[Path]:
    """COUNT of them."""
    chooser, paths = np.random.default_rng(seed), []
    for number in range(COUNT):
        coarse = chooser.integers(0, 256, (24, 32, 3), np.uint8)
        fine = coarse.repeat(SIDES[0] // 24, 0).repeat(SIDES[1] // 32, 1)
        grain = chooser.integers(-9, 10, fine.shape)
        path = folder / f"{number:05}.jpg"
        path.write_bytes(
            simplejpeg.encode_jpeg(np.clip(fine + grain, 0, 255).astype(np.uint8), quality=88)
        )
        paths.append(path)
    return paths
