"""What a confirmation will say, written down before its worlds are drawn.

Development used worlds 0 to 4. The confirmation runs once in WORLDS, and all its results are kept
whatever they say. Primary: PRIMARY of CANDIDATE against each row of AGAINST, on the graph GRAPH;
paired over worlds, Holm-corrected over this list. Kept: CANDIDATE's KEPT is not lower than that of
c2srt.study.rows.FULL by MARGIN or more (lower end of the interval).
"""

from c2srt.study.rows import CANDIDATE, FULL, LABELS_ONLY, ON_FULL, ROWS, UNSEEN_ONLY

DEVELOPMENT, WORLDS = (0, 1, 2, 3, 4), tuple(range(10, 20))
GRAPH = "noise-50"
PRIMARY, KEPT, MARGIN = "GZSL mAP", "GZSL F1@10", 0.01
TOPK = (3, 10)
"""K of F1@K."""
SHOWN = ("ZSL mAP", "words mAP", "opaque mAP", "GZSL mAP", "GZSL F1@10", "true GZSL mAP")
"""Figures of the tables (c2srt/demo/measure.py names them)."""
AGAINST = tuple(
    row.name for row in ROWS if row.compared and row.name not in (CANDIDATE, "prior only")
)
"""All other rows that are compared. What the graph brings is the difference to LABELS_ONLY, which
hears none.
"""
PARTS = (UNSEEN_ONLY, ON_FULL)
"""Of these the ones that are the candidate but for one part: what the difference to them shows is
that part. The others are its controls.
"""
assert {FULL, LABELS_ONLY, *PARTS} <= set(AGAINST)
