"""Chat templates: those of both Gemma 4 families as plain files, and their renderer."""

from __future__ import annotations

from gemma4_gguf.templates.renderer import Renderer, family_of, load, render, words_before_calls

__all__ = ["Renderer", "family_of", "load", "render", "words_before_calls"]
