"""`c2srt check`: what a machine shows of us in ten minutes.

The kernels against their literal forms, times, memory, waits.

It needs neither Ray, DeepSpeed, MLflow, Hydra, polars nor open_clip: `python -m c2srt.check gpu
quick` runs from a source tree beside torch alone. What a part needs and does not find is named, and
the part skipped. Nothing here changes a kernel.

    <out>/check.jsonl       a line a part, written as it ends; a second run does what has no good
                            line of this source and card
    <out>/check.json        the newest line of every part, with card, driver, versions, commit and
                            date
    <out>/check.txt         the same as a page to read
    <out>/check.log         what the parts' process printed
    <out>/calibration.json  full: rates for `c2srt plan calibration=…`
    <out>/cluster.yaml      full: the same rates as a cluster=… file

A line is {"part", "status", "why", "seconds", "date", "machine": {…}, "rows": [{"what",
…figures}]}. `status` is `ok`, `wrong` (a row says which kernel, shape and precision), `skipped`,
`failed`, `out of time` or `died`; a row may carry `wrong` or `skipped` of its own.
"""
