"""The demo's tables as Markdown: rows by name, figures in percent, mean and spread over trials."""

import numpy as np

Trials = dict[tuple[int, int], dict[str, float]]
"""(CLIP seed, fine-tuning seed) -> figures, as fractions."""


def columns(topk: list[int]) -> list[str]:
    """The figures that are printed, in order (c2srt/demo/measure.py names them)."""
    f1 = [f"{label_set} F1@{k}" for label_set in ("ZSL", "GZSL") for k in topk]
    return ["ZSL mAP", "words mAP", "opaque mAP", "GZSL mAP", *f1, "true ZSL mAP", "true opaque mAP", "true GZSL mAP"]


def markdown(caption: str, values: dict[str, Trials], topk: list[int]) -> str:
    """One table under its caption."""
    names = columns(topk)
    lines = ["| row | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for row, trials in values.items():
        lines.append(f"| {row} | " + " | ".join(cell(trials, name) for name in names) + " |")
    return "\n".join([f"**{caption}**", "", *lines])


def cell(trials: Trials, name: str) -> str:
    """Percent; with several trials the mean ± half the range over fine-tuning seeds, and over CLIPs."""
    of_seeds = [100 * figures[name] for (clip, _), figures in trials.items() if clip == 0]
    of_clips = [100 * figures[name] for (_, seed), figures in trials.items() if seed == 0]
    if len(trials) == 1:
        return f"{(of_seeds + of_clips)[0]:.1f}"
    mean = np.mean([100 * figures[name] for figures in trials.values()])
    spreads = [f"±{half_range(group):.1f}" for group in (of_seeds, of_clips) if len(group) > 1]
    return f"{mean:.1f} {' '.join(spreads)}"


def half_range(values: list[float]) -> float:
    return (max(values) - min(values)) / 2


def notes(values: dict[str, Trials]) -> str:
    """How to read the tables: what the columns mean; the spread only where there is one."""
    lines = ["Percent. mAP is `per_class` over verified labels, F1 micro over images with a positive. Unseen categories are "
             "*words* (pairs of known words) and *opaque* (events, known only through what they come with). *true* columns "
             "use everything that the generator drew, which no real data set knows. The mAP of *prior only* is what chance gives."]
    if any(len(trials) > 1 for trials in values.values()):
        lines.append("Mean over all trials ± half the range over fine-tuning seeds (first CLIP) ± half the range over CLIPs "
                     "(first fine-tuning seed); rows without training have the second only.")
    return "\n".join(lines)
