"""Any photo, any words, ranked: `c2srt predict`, and `c2srt.load(path)` (predictor.py)."""
