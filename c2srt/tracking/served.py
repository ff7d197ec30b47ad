"""What serving a tracked model needs installed."""

import re
from importlib.metadata import version

SERVED_BY = (
    "mlflow",
    "torch",
    "torchvision",
    "open_clip_torch",
    "safetensors",
    "numpy",
    "pillow",
    "simplejpeg",
    "pyarrow",
    "psutil",
)
"""What serving imports; MLflow records them with the versions of this machine."""


def requirement(name: str) -> str:
    """name==version, without the local part of a version (+cpu), which only one index has."""
    return f"{name}=={re.sub(r'[+].*', '', version(name))}"
