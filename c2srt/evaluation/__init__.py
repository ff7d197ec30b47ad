"""Evaluation: five named mAP protocols and micro F1@K, exact, streaming and mergeable.

Read in this order: `metrics` and `topk` (the arithmetic on arrays), `metric_state` (what a batch of
images leaves behind), `protocols` (the five definitions), `annotated` (the columns that QKS ranks),
`dense` (the protocol that needs a second look at every score), `bootstrap` (confidence intervals),
`known` (what is published of a vocabulary), `results` (results.json, the per-category table),
`describe` (what is printed), `arrays` (scores from .npy files), `score_table` and `split_labels`
(scores from tables by image and MID, beside the labels of shards), `scorers` (exported model, CLIP
zero-shot, class prior: anything with `.scores(images)`).
"""
