"""The relation graph of the IST module as a neighbour table: which seen categories inform which
category.

Reading order: `neighbours.py` (a graph in memory), `kinds.py` (which graphs there are, what decides
each, and where a new one is added), `config.py` (the other verbs' keys), `answers.py` (mined
relations, and their table), `baselines.py` and `cooccurrence.py` (the kinds to compare with),
`table.py` (the format on disk), `build.py` (the verb `relations`);
`shortlist.py`, `prompt.py`, `questions.py` (what is asked), `ledger.py`, `completion.py` and
`endpoint.py` (what a server says), `budget.py`, `validation.py` (what a reply is worth),
`dispatch.py` (many requests at once), `aggregate.py` (ledger → relations file), `mine.py` (the verb
`relations mine`), `batch.py` (the same by file);
`compare.py`, `pictures.py`, `page.py`, `markdown.py`, `report.py` (the verb `relations report`);
`words.py` (words outside the vocabulary).

Rules that hold for every kind:
- only seen categories are neighbours (unseen ones receive, they never send); a category is never
  its own neighbour (self-loops are the model's switch); no neighbour occurs twice in a row;
- categories are told apart by MID: one that shares its display name with another may have it as a
  neighbour;
- best first; a category with fewer than K neighbours has −1 in the remaining places.

Letters: C categories, S seen, K neighbours, D width.
"""
