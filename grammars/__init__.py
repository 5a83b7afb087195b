"""Grammars that constrain what a model writes: plain GBNF files, and JSON schemas, types and tools as GBNF.

Any llama.cpp app can load the texts.
"""

from __future__ import annotations

from gemma4_gguf.grammars.shipped import load
from gemma4_gguf.grammars.sources import from_schema, from_tools, from_type

__all__ = ["from_schema", "from_tools", "from_type", "load"]
