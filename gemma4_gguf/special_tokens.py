"""Special tokens of Gemma 4: every marker spelled once, and its id in one vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields

from gemma4_gguf.types import MODALITIES

CHANNEL_OPEN, CHANNEL_CLOSE = "<|channel>", "<channel|>"
CALL_OPEN, CALL_CLOSE = "<|tool_call>", "<tool_call|>"
RESPONSE_OPEN, RESPONSE_CLOSE = "<|tool_response>", "<tool_response|>"
QUOTE = '<|"|>'  # around texts in the arguments of a call
TURN_OPEN, TURN_CLOSE = "<|turn>", "<turn|>"
# Those that the model writes or that end what it writes: name in `Markers` → text.
MARKER_TEXT = {
    "channel_open": CHANNEL_OPEN,
    "channel_close": CHANNEL_CLOSE,
    "call_open": CALL_OPEN,
    "call_close": CALL_CLOSE,
    "response_open": RESPONSE_OPEN,
    "response_close": RESPONSE_CLOSE,
    "quote": QUOTE,
    "turn_open": TURN_OPEN,
    "turn_close": TURN_CLOSE,
}

# What the template writes where a medium goes, and what stands before and after its soft tokens.
PLACEHOLDERS = {kind: f"<|{kind}|>" for kind in MODALITIES}
MEDIA_BEGIN = {kind: f"<|{kind}>" for kind in MODALITIES}
MEDIA_END = {kind: f"<{kind}|>" for kind in MODALITIES}

# A model never has a reason to write these, and a grammar or a media span breaks when it does.
NEVER_WRITTEN = frozenset(
    (
        *("<pad>", "<bos>", "<unk>", "<mask>", "[multimodal]", "<|think|>", "<|tool>", "<tool|>"),
        *PLACEHOLDERS.values(),
        *MEDIA_BEGIN.values(),
        *MEDIA_END.values(),
    )
)

_PRIVATE_USE = range(0xE000, 0xF900)  # characters that no text of people holds


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

        Returns:
            The markers.
        """
        shown = cls.from_vocab(special_tokens.get).names()
        return cls.from_vocab(special_tokens.get, silent=set(special_tokens.values()) - set(shown))

    @classmethod
    def from_vocab(cls, id_of: Callable[[str], int | None], silent: Iterable[int] = ()) -> Markers:
        """Look the markers up by their text.

        Args:
            id_of: token text to id, None for text that is not one token.
            silent: ids that are never text.

        Returns:
            The markers.
        """
        ids = {name: id_of(text) for name, text in MARKER_TEXT.items()}
        return cls(**ids, silent=frozenset(silent))

    def names(self) -> dict[int, str]:
        """Names of the markers that exist.

        Returns:
            Name by id.
        """
        found = {getattr(self, field.name): field.name for field in fields(self) if field.name != "silent"}
        found.pop(None, None)
        return found


def unused_character(texts: Iterable[str]) -> str:
    """A character that can stand for a marker among texts.

    Args:
        texts: of any length.

    Returns:
        The first private-use character that is in none of them.
    """
    used = set().union(*map(set, texts))
    return next(chr(code) for code in _PRIVATE_USE if chr(code) not in used)
