"""Convert Gemma 4 checkpoints to GGUF and run them locally."""

__version__ = "0.1.0"
