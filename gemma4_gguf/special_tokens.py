"""Special tokens of Gemma 4: every marker spelled once, and its id in one vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields

MARKER_TEXT = {
    "channel_open": "<|channel>",
    "channel_close": "<channel|>",
    "call_open": "<|tool_call>",
    "call_close": "<tool_call|>",
    "response_open": "<|tool_response>",
    "response_close": "<tool_response|>",
    "quote": '<|"|>',
    "turn_open": "<|turn>",
    "turn_close": "<turn|>",
}

MEDIA_KINDS = ("image", "audio", "video")
# What the template writes where a medium goes, and what stands before and after its soft tokens.
PLACEHOLDERS = {kind: f"<|{kind}|>" for kind in MEDIA_KINDS}
MEDIA_BEGIN = {kind: f"<|{kind}>" for kind in MEDIA_KINDS}
MEDIA_END = {kind: f"<{kind}|>" for kind in MEDIA_KINDS}


@dataclass(frozen=True, kw_only=True)
class Markers:
    """Token ids of the markers in one vocabulary; None where a vocabulary lacks one.

    Args:
        silent: ids that are never text (bos, eos, pad, soft tokens of media, …).
    """

    channel_open: int | None = None
    channel_close: int | None = None
    call_open: int | None = None
    call_close: int | None = None
    response_open: int | None = None
    response_close: int | None = None
    quote: int | None = None
    turn_open: int | None = None
    turn_close: int | None = None
    silent: frozenset[int] = frozenset()

    @classmethod
    def of_model(cls, special_tokens: Mapping[str, int]) -> Markers:
        """Markers of a model file; all its other special tokens are silent.

        Args:
            special_tokens: text to id, from `ModelFacts`.
        """
        shown = cls.from_vocab(special_tokens.get).names()
        return cls.from_vocab(special_tokens.get, silent=set(special_tokens.values()) - set(shown))

    @classmethod
    def from_vocab(cls, id_of: Callable[[str], int | None], silent: Iterable[int] = ()) -> Markers:
        """Look the markers up by their text.

        Args:
            id_of: token text to id, None for text that is not one token.
            silent: ids that are never text.
        """
        ids = {name: id_of(text) for name, text in MARKER_TEXT.items()}
        return cls(**ids, silent=frozenset(silent))

    def names(self) -> dict[int, str]:
        """Returns: id → marker name, for the ids that exist."""
        found = {getattr(self, field.name): field.name for field in fields(self) if field.name != "silent"}
        found.pop(None, None)
        return found
