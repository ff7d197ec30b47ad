"""`c2srt tables`: the paper's tables and sweeps, trained, evaluated and collected by one command.

Read in this order: `rows` (what a table holds; configs/tables/*.yaml), `commands` (what a row
needs, as commands that a person could type), `runner` (runs them), `collect` (results on disk →
figures), `render` (Markdown, CSV, LaTeX, JSON), `run` (the verb).
"""
