"""Evaluation: four named mAP protocols and micro F1@K, exact, streaming and mergeable.

Read in this order: `metrics` (the arithmetic on arrays), `part` (what a batch of images leaves behind), `protocols` (the four
definitions), `dense` (the one that needs a second look at every score), `results` (results.json, the per-category table),
`arrays` (scores from .npy files), `scorers` (exported model, CLIP zero-shot, class prior: anything with `.scores(images)`).
"""
