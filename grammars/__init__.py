"""Grammars for constrained decoding: plain GBNF files, and GBNF made from JSON schemas, types and tools.

Any llama.cpp app can load the texts.
"""

from __future__ import annotations

from gemma4_gguf.grammars.shipped import load
from gemma4_gguf.grammars.sources import from_schema, from_tools, from_type

__all__ = ["from_schema", "from_tools", "from_type", "load"]
