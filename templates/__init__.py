"""Chat templates: those of both Gemma 4 families as plain files, and their renderer."""

from __future__ import annotations

from gemma4_gguf.templates.renderer import Renderer, family_of, load, render, words_before_calls
from gemma4_gguf.templates.tool_schemas import printable_tools

__all__ = ["Renderer", "family_of", "load", "printable_tools", "render", "words_before_calls"]
