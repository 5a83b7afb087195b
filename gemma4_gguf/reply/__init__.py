"""Reply parsing: what a model writes → thoughts, text and tool calls."""
