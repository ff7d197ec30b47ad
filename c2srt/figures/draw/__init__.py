"""Pictures of the numbers in c2srt/figures; nothing is computed here."""
