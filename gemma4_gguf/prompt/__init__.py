"""Prompt writing: messages → what the model reads, token ids and media spans."""
