"""The kinds of relation graphs."""

LLM, MINED = "llm", "mined"  # relations that came with the data set; relations mined by its user
KINDS = (LLM, MINED, "similarity", "cooccurrence", "random", "none")
