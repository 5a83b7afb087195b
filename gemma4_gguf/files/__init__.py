"""GGUF files and the hub: formats, checks, names, downloads and atomic writing."""
