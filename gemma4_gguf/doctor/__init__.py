"""Installation check: whether llama.cpp computes on each device what transformers computed."""
