"""Bare calls: tool calls that a model wrote without their marker.

Gemma 4 now and then leaves `<|tool_call>` out, most often right after a thought, or collapses it to
`<tool_call:`. Such a call is read only where the meaning is certain: its tool is declared, its brackets
close, and it stands by itself. One in code, in quotation marks or inside a sentence is a mention and stays
text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gemma4_gguf.reply.lexer import Piece
from gemma4_gguf.reply.tool_call import NAME, ReadCall, declared_name, read_call

_WORDS = ("call:", "<call>", "<tool_call:", "<|tool_call:")
_OPENER = re.compile(rf"(?:{'|'.join(map(re.escape, _WORDS))})[ \t]{{0,8}}({NAME})[ \t]{{0,8}}(?=[{{(])")
_HALF_NAME = re.compile(rf"[ \t]{{0,8}}(?:{NAME}[ \t]{{0,8}})?")
_LONGEST_OPENER = 256  # characters
_QUOTATION = re.compile("[`'\"“”„‘’«»]")  # a call after one of these is a mention
_NO_CALL_AFTER = re.compile(r"[^\s.,:;!?…)\]}>]")
_FENCE = re.compile(r" {0,3}(?:```|~~~)")


class BareCalls:
    """Finds where a bare call may begin, in text that comes in pieces.

    Args:
        schemas: parameter schema per declared tool; without any, no bare call is found.
    """

    def __init__(self, schemas: Mapping[str, dict[str, Any]] | None) -> None:
        self._schemas = schemas or {}
        self._tail = ""  # may be the start of an opener
        self._last = ""  # character before it
        self._line = ""  # start of the line it stands in
        self._in_code = False

    def feed(self, text: str) -> tuple[str, re.Match[str] | None, str]:
        """Takes text.

        Args:
            text: what comes next.

        Returns:
            What is certainly before a call; the opener of one, if there is one, up to its bracket; what is
            left of the text, bracket first.
        """
        if not self._schemas:
            return text, None, ""
        text, at = self._tail + text, 0
        self._tail = ""
        for found in _OPENER.finditer(text):
            self._pass(text[at : found.start()])
            at = found.start()
            if self._may_stand(found):
                return text[:at], found, text[found.end() :]
        keep = _unsafe(text, at)
        self._pass(text[at:keep])
        self._tail = text[keep:]
        return text[:keep], None, ""

    def flush(self) -> str:
        """Ends a run of text.

        Returns:
            What was held back.
        """
        tail, self._tail = self._tail, ""
        self._pass(tail)
        self._last = ""
        return tail

    def skip(self, text: str) -> None:
        """Takes text in which no call is looked for.

        Args:
            text: it comes before whatever is fed next.
        """
        self._pass(text)

    def begins(self, text: str) -> bool | None:
        """Whether a text begins with a bare call.

        Args:
            text: without white space before it.

        Returns:
            None where more of it must be seen.
        """
        found = _OPENER.match(text)
        if found is not None:
            return declared_name(found.group(1), self._schemas) is not None
        return None if _unsafe(text, 0) == 0 else False

    def _may_stand(self, found: re.Match[str]) -> bool:
        before = _QUOTATION if found.group().startswith("<") else _NO_CALL_AFTER
        stands = not before.fullmatch(self._last)
        return bool(stands and not self._in_code and declared_name(found.group(1), self._schemas))

    def _pass(self, text: str) -> None:
        """Remembers what stands before what comes next: its last character, and whether it is code."""
        for line in text.splitlines(keepends=True):
            before = _FENCE.match(self._line)
            self._line = (self._line + line)[:8]
            if before is None and _FENCE.match(self._line):
                self._in_code = not self._in_code
            if line.endswith(("\n", "\r")):
                self._line = ""
        self._last = text[-1:] or self._last


def _unsafe(text: str, at: int) -> int:
    """Index from which the end of a text may be the start of an opener; its length if nowhere."""
    for start in range(max(at, len(text) - _LONGEST_OPENER), len(text)):
        if text[start] in "c<" and any(_may_become(text[start:], word) for word in _WORDS):
            return start
    return len(text)


def _may_become(text: str, word: str) -> bool:
    if not text.startswith(word):
        return word.startswith(text)
    return _HALF_NAME.fullmatch(text, len(word)) is not None


_SIGN = re.compile(r"[{}()\[\]\"']|\\[\s\S]?")


class Brackets:
    """Finds where the bracket that a text begins with is closed, in pieces that come one by one.

    Delimited texts are skipped, and so are texts in plain quotes where a value may begin.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._round = False  # parentheses count
        self._quote = self._before = ""
        self._escaped = False

    @property
    def in_text(self) -> bool:
        """A delimited text is open."""
        return self._quote == "quote"

    def feed(self, piece: Piece) -> int | None:
        """Takes a piece.

        Args:
            piece: text or a marker.

        Returns:
            Index into its text right after the closing bracket; None when that has not come yet.
        """
        kind, text = piece
        if kind == "quote" and self._quote in ("", "quote"):
            self._quote = "" if self._quote else "quote"
        if kind is not None or self.in_text or not text:
            return None
        found = _SIGN.search(text, 1 if self._escaped else 0)
        self._escaped = False
        while found is not None:
            plain = self._quote == ""
            if self._step(found.group(), text, found.start()):
                return found.end()
            found = _SIGN.search(text, found.start() + 1 if plain else found.end())
        self._before = text.rstrip()[-1:] or self._before
        return None

    def _step(self, sign: str, text: str, at: int) -> bool:
        """Takes a bracket, a quotation mark or a backslash; says whether it is the closing bracket."""
        if sign[0] == "\\":
            self._escaped = len(sign) == 1 and self._quote != ""
        elif self._quote:
            self._quote = "" if sign == self._quote else self._quote
        elif sign in "\"'":
            while at > 0 and text[at - 1].isspace():
                at -= 1
            if (text[at - 1] if at > 0 else self._before) in ":=,[{(":
                self._quote = sign
        elif sign in "{[" or (sign == "(" and (self._round or not self._depth)):
            self._round = self._round or sign == "("
            self._depth += 1
        elif sign in "}]" or self._round:
            self._depth -= 1
        return self._depth <= 0


def leading_call(
    pieces: Sequence[Piece], schemas: Mapping[str, dict[str, Any]] | None
) -> tuple[ReadCall | None, list[Piece]]:
    """A call whose brackets close although text goes on after it.

    Args:
        pieces: what came after `<|tool_call>`.
        schemas: parameter schema per declared tool, None when no tools are known.

    Returns:
        The call, None where there is none, and what comes after it.
    """
    brackets, began = Brackets(), False
    for number, (kind, text) in enumerate(pieces):
        start = 0
        if not began and kind is None and (found := re.search("[{(]", text)):
            began, start = True, found.start()
        end = brackets.feed((kind, text[start:])) if began else None
        if end is not None:
            whole = [*pieces[:number], (kind, text[: start + end])]
            call = read_call(whole, schemas, closed=False, cut=True)
            return call, [(kind, text[start + end :]), *pieces[number + 1 :]]
    return None, []
