"""Grammar file loader: the GBNF files of the package."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

from gemma4_gguf.errors import GrammarError

NAMES = ("json", "json_array", "boxes", "points", "tool_call")


@lru_cache(maxsize=len(NAMES))
def load(name: str) -> str:
    """Read a shipped grammar.

    Args:
        name: "json" (any value), "json_array", "boxes", "points", or "tool_call" (Gemma's own notation).

    Returns:
        GBNF text.

    Raises:
        GrammarError: there is none of this name.
    """
    if name not in NAMES:
        raise GrammarError(f"there is no grammar {name!r}; known: {', '.join(NAMES)}")
    return resources.files("gemma4_gguf.grammars").joinpath(f"{name}.gbnf").read_text("utf-8")
