"""From what a model writes to thoughts, text and tool calls."""
