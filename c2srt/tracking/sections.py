"""Where MLflow's page of a run shows a metric. It makes a section of what stands before a slash,
sorts these by name, and puts what has no slash below them all.
"""

LEARNING, MACHINE = "learning", "machine"
MACHINES = {
    "images_per_s",
    "data_wait_share",
    "left_out_updates",
    "peak_rss_mib",
    "peak_gpu_mib",
}
"""Of a training's metrics (c2srt/train/recorder.py) those that say how it runs, not what it learns.
"""


def in_section(name: str) -> str:
    """The metric's name with its section."""
    return name if "/" in name else f"{MACHINE if name in MACHINES else LEARNING}/{name}"
