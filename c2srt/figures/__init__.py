"""The paper's figures from trained models, shards and tables: table 2 and figures 4–11.

Read in this order: `run` (the verb), `registry` (every figure, and what a new one needs), `inputs`
(what the figures are made from, and which of it is missing), `photos` (which test images are
shown), `viewers` (CLIP, MKT and ours behind one face);
then the numbers, a module a figure, without drawing: `cam`, `patches`, `patch_counts` and
`ap_change` (figure 6), `attention` (7), `predictions` (8, 11), `graph` (10), `curves` (4, 5, 9).
`draw/` makes pictures of those numbers and computes nothing; `draw/style.py` is all that they
share.
"""
