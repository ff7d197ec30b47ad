"""The frozen CLIP's features of the training images, computed once.

Reading order: `config` (the verb), `cache` (the files: reading, writing one shard), `job`
(what is missing, and where it runs).
"""
