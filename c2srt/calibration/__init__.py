"""Calibration of a trained model: probabilities in the place of scores, and the one from which a
category is named.

Read in this order: `counts` (what a split's scores and labels leave behind), `fit` (from counts to
`Calibration`), `measured` (its error and F1 on another split), `per_category` (precision
and recall of each, and which was named where another was), `job`.
"""
