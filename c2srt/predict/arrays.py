"""Pictures in arrays and tensors: [H, W, C] or [C, H, W], C = 1, 3 or 4, of uint8 or of floats
0…1. Where both ends could be C, an array is [H, W, C] and a tensor [C, H, W], as their libraries
have it.
"""

import numpy as np
import torch
from PIL import Image

CHANNELS = (1, 3, 4)
OVERSHOOT = 1e-3
"""What resampling may leave a float beyond 0…1; it is cut."""


class NotAnImage(TypeError):
    """What is no picture of any kind that `predict` takes."""

    def __init__(self, given: object, more: str = "") -> None:
        super().__init__(
            "an image is a path or a PIL image, a URL, the bytes of a file, an open file, or an"
            " array or tensor [H, W, 3] or [3, H, W] of uint8 or floats 0…1, not"
            f" {type(given).__name__}{more}"
        )


def pillow_of(image: Image.Image | np.ndarray | torch.Tensor) -> Image.Image:
    """The picture as Pillow's; one that is Pillow's as it is. Raises NotAnImage."""
    if isinstance(image, Image.Image):
        return image
    channels_first = isinstance(image, torch.Tensor)
    array = numpy_of(image) if isinstance(image, torch.Tensor) else image
    if array.ndim != 3 or not array.size:
        raise NotAnImage(image, f" of shape {list(array.shape)}")
    ends = (0, 2) if channels_first else (2, 0)
    axis = next((axis for axis in ends if array.shape[axis] in CHANNELS), None)
    if axis is None:
        raise NotAnImage(image, f" of shape {list(array.shape)}")
    pixels = np.ascontiguousarray(np.moveaxis(as_bytes(array, image), axis, 2))
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def numpy_of(tensor: torch.Tensor) -> np.ndarray:
    """On the CPU; NumPy has no bfloat16."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def as_bytes(array: np.ndarray, image: object) -> np.ndarray:
    """uint8. Raises NotAnImage on other values than pixels have."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise NotAnImage(image, f" of {array.dtype}")
    low, high = float(array.min()), float(array.max())
    if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):
        raise NotAnImage(image, f" with values from {low:g} to {high:g}")
    return (array.clip(0, 1) * 255).round().astype(np.uint8)
