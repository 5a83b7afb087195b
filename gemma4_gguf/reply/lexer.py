"""Marker lexer: the markers of Gemma 4's output, found in a stream.

By token id: the same characters written out of ordinary tokens stay text, and no chunk boundary cuts a
marker. Without ids (text from elsewhere) by their spelling, holding back only what may still become a marker.
"""

from __future__ import annotations

import re

from gemma4_gguf.special_tokens import MARKER_TEXT, SILENT_TEXT, Markers

Piece = tuple[str | None, str]
"""(marker name, "silent" for one that means nothing, or None for ordinary text; the text)"""

THOUGHT_HEADER = re.compile(r"\s*thought[ \t]{0,8}\r?\n")
"""The word that stands first in a thought channel and is no part of the thought."""
_HALF_HEADER = re.compile(r"thought[ \t]{0,8}\r?")
_MARKER_NAME = {text: name for name, text in MARKER_TEXT.items()} | dict.fromkeys(SILENT_TEXT, "silent")
_MARKER_RE = re.compile("|".join(map(re.escape, _MARKER_NAME)))
_LONGEST_MARKER = max(map(len, _MARKER_NAME))


class Lexer:
    """Cuts a stream of tokens into markers and text.

    Args:
        markers: ids of the markers; None looks for them in the text.
    """

    def __init__(self, markers: Markers | None) -> None:
        self._names = markers.names() if markers is not None else None
        self._silent = markers.silent if markers is not None else frozenset()
        self._tail = ""  # text that may be the start of a marker (without ids only)

    def feed(self, token_id: int | None, text: str) -> list[Piece]:
        """Takes one token.

        Args:
            token_id: its id; None for text without one.
            text: its text, whole characters.

        Returns:
            The pieces that are certain now.
        """
        if self._names is not None:
            name = self._names.get(token_id) if token_id is not None else None
            if name is not None:
                return [(name, MARKER_TEXT[name])]
            return [] if token_id in self._silent or not text else [(None, text)]
        out: list[Piece] = []
        text, at = self._tail + text, 0
        for match in _MARKER_RE.finditer(text):
            if match.start() > at:
                out.append((None, text[at : match.start()]))
            out.append((_MARKER_NAME[match.group()], match.group()))
            at = match.end()
        keep = _marker_start(text, at)
        self._tail = text[keep:]
        if keep > at:
            out.append((None, text[at:keep]))
        return out

    def flush(self) -> list[Piece]:
        """Ends the stream.

        Returns:
            What was held back.
        """
        tail, self._tail = self._tail, ""
        return [(None, tail)] if tail else []


def _marker_start(text: str, at: int) -> int:
    """Index from which the end of a text may be the start of a marker; its length if nowhere."""
    for start in range(max(at, len(text) - _LONGEST_MARKER + 1), len(text)):
        if text[start] == "<" and any(marker.startswith(text[start:]) for marker in _MARKER_NAME):
            return start
    return len(text)


def may_be_header(body: str) -> bool:
    """Whether text that begins so may still turn out to begin with the header of a thought.

    Args:
        body: what came so far, without white space before it.

    Returns:
        True for an empty one, too; False once the header is whole.
    """
    return "thought".startswith(body) or _HALF_HEADER.fullmatch(body) is not None
