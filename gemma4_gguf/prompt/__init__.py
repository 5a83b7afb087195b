"""From messages to what the model reads: token ids and media spans."""
