"""Special tokens of Gemma 4: every marker spelled once, and its id in one vocabulary."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields

from gemma4_gguf.types import MODALITIES

BOS = "<bos>"
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

# Those that are never text, wherever they stand.
SILENT_TEXT = frozenset(
    (
        *(BOS, "<eos>", "<pad>", "<|think|>", "<|tool>", "<tool|>"),
        *PLACEHOLDERS.values(),
        *MEDIA_BEGIN.values(),
        *MEDIA_END.values(),
    )
)
# A model never has a reason to write these, and a grammar or a media span breaks when it does.
NEVER_WRITTEN = SILENT_TEXT - {"<eos>"} | {"<unk>", "<mask>", "[multimodal]"}

_LOOKS_LIKE_ONE = re.compile(r"<\|[^<>]*>|<[^<>]*\|>")
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


class ControlTokens:
    """Control tokens of one vocabulary, found in text in one pass.

    Args:
        ids: id by text.
        shown: those of them that llama.cpp reads out of every text, because the file shows them on purpose.
    """

    def __init__(self, ids: Mapping[str, int], shown: Iterable[str] = ()) -> None:
        self.ids = dict(ids)
        self._any = any_of(self.ids)
        self._shown = any_of(shown)

    @staticmethod
    def looks_like_one(text: str) -> bool:
        """Whether a token that a file shows on purpose is a marker, such as `<|"|>`.

        Args:
            text: of the token.

        Returns:
            False for additions to the vocabulary that are words.
        """
        return _LOOKS_LIKE_ONE.fullmatch(text) is not None

    def split(self, text: str) -> Iterator[str | int]:
        """Reads control tokens out of a text.

        Args:
            text: of any length.

        Yields:
            Ids of control tokens, and the text between them, in order.
        """
        at = 0
        for match in self._any.finditer(text):
            if match.start() > at:
                yield text[at : match.start()]
            yield self.ids[match[0]]
            at = match.end()
        if at < len(text):
            yield text[at:]

    def apart(self, text: str) -> Iterator[str]:
        """Cuts a text so that llama.cpp finds no control token in it.

        The cuts lie where no word of Gemma's vocabulary reaches across, after `<` or before `|>`, so that the
        pieces give the same ids as the whole text would.

        Args:
            text: of any length.

        Yields:
            Pieces of it, in order.
        """
        at = 0
        for match in self._shown.finditer(text):
            cut = match.start() + 1 if match[0].startswith("<|") else match.end() - 2
            yield text[at:cut]
            at = cut
        yield text[at:]


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds texts, the longer one where two begin alike.

    Args:
        texts: none of them empty; without any the pattern finds nothing.

    Returns:
        Compiled; branches are grouped by first character, so that other characters are passed quickly.
    """
    rests: dict[str, list[str]] = {}
    for text in sorted(set(texts), key=len, reverse=True):
        rests.setdefault(text[0], []).append(re.escape(text[1:]))
    return re.compile("|".join(f"{re.escape(c)}(?:{'|'.join(rest)})" for c, rest in rests.items()) or r"(?!)")


def unused_character(texts: Iterable[str]) -> str:
    """A character that can stand for a marker among texts.

    Args:
        texts: of any length.

    Returns:
        The first private-use character that is in none of them; where all are, the last of all characters.
    """
    used = set().union(*map(set, texts))
    codes = itertools.chain(_PRIVATE_USE, range(sys.maxunicode, 0, -1))
    return next(chr(code) for code in codes if chr(code) not in used)
