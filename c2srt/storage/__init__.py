"""Where the bytes of large files come from: positional reads, tens in flight, retried."""
