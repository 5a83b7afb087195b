"""Lenient argument reader: the arguments of a tool call as models really write them.

JSON or Python quotes, `=` for `:`, parentheses, text without delimiters, delimiters used as quotation marks,
missing values and ends. A value ends where what follows can only be the next argument, a closing bracket that
is due, or the end; which keys there can be comes from the tool's JSON schema. No backtracking.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from gemma4_gguf.reply.argument_types import (
    allows,
    alternative,
    deref,
    literal,
    only_text,
    properties,
    sub,
    types_of,
)

MAX_DEPTH = 64
_SPACES = re.compile(r"\s*")
_ENDS = "\t\n\r ,;})]"  # what may follow the last bracket


class Unreadable(Exception):
    """This reading does not work; another may."""


def twice(key: str, value: Any) -> str:
    """What is said about a key that comes again.

    Args:
        key: it.
        value: what it had, which the last one replaces.

    Returns:
        A sentence without a full stop.
    """
    return f"argument {key!r} was written twice; the last one counts, not {value!r}"


@dataclass
class Frame:
    """An open object or array: what closes it, and which keys it may have."""

    closer: str
    keys: tuple[str, ...] = ()
    array: bool = False
    used: set[str] = field(default_factory=set)


class Lenient:
    """One reading of `{…}` or `(…)`.

    Args:
        text: from the opening bracket on, with `mark` for each string delimiter.
        root: JSON schema of the arguments.
        known_only: only declared keys count as keys.
        ends: missing ends may be added.
        force: a text that never ends may be, too.
    """

    def __init__(
        self, text: str, mark: str, root: dict[str, Any], *, known_only: bool, ends: bool, force: bool
    ) -> None:
        self.text, self.mark, self.root = text, mark, root
        self.known_only, self.ends, self.force = known_only, ends, force
        self.at = 0
        self.only_ends = len(text.rstrip(_ENDS))  # from here on
        self.looks_left = len(text) + 1000  # at what may end a value: a bound on the time
        self.stack: list[Frame] = []
        self.notes: list[str] = []
        quote = "[" + re.escape(mark) + "\"']?"
        self.any_key = re.compile(rf"\s*{quote}([^\s,:={{}}()\[\]\"'{re.escape(mark)}]+){quote}\s*[:=]")
        self.key_cache: dict[tuple[str, ...], re.Pattern[str]] = {}

    def arguments(self) -> dict[str, Any]:
        """Reads all of the text.

        Returns:
            Arguments by name, with `mark` for delimiters that are left in texts.

        Raises:
            Unreadable: this reading does not work.
        """
        opener = self.text[0]
        if opener == "(":
            self.notes.append("parentheses were read as braces")
            inner = re.compile(r"\(\s*\{").match(self.text)
            if inner:
                self.text = self.text[inner.end() - 1 :].rstrip().removesuffix(")")
                self.only_ends = len(self.text.rstrip(_ENDS))
                opener = "{"
        self.at = 1
        out = self.object(self.root, "}" if opener == "{" else ")")
        if self.at < self.only_ends:
            raise Unreadable
        return out

    def note(self, sentence: str) -> None:
        """Adds a sentence about something that was mended.

        Args:
            sentence: without a full stop.
        """
        self.notes.append(sentence)

    def skip(self, extra: str = "") -> None:
        """Goes past white space.

        Args:
            extra: characters to go past, too.
        """
        while self.at < len(self.text) and (self.text[self.at].isspace() or self.text[self.at] in extra):
            self.at += 1

    def key(self, frame: Frame, at: int, *, again: bool = False) -> re.Match[str] | None:
        """A key, with its colon, that may come next in an object.

        Args:
            frame: the object.
            at: index into the text.
            again: it may be one that was there before.

        Returns:
            Its group 1 is the key; None where there is none.
        """
        if not (self.known_only and frame.keys):
            return self.any_key.match(self.text, at)
        if frame.keys not in self.key_cache:
            quote = "[" + re.escape(self.mark) + "\"']?"
            words = "|".join(re.escape(key) for key in sorted(frame.keys, key=len, reverse=True))
            self.key_cache[frame.keys] = re.compile(rf"\s*{quote}({words}){quote}\s*[:=]")
        found = self.key_cache[frame.keys].match(self.text, at)
        return found if found is not None and (again or found.group(1) not in frame.used) else None

    def ends_value(self, at: int, *, again: bool = False) -> bool:
        """Whether what follows a place can only be the end of this value.

        Args:
            at: index into the text.
            again: a key that was there before may follow.

        Returns:
            False where the value may go on.
        """
        text, depth = self.text, len(self.stack)
        self.looks_left -= 1
        if self.looks_left < 0:
            raise Unreadable
        while True:
            while at < len(text) and text[at].isspace():
                at += 1
            if at >= len(text):
                return depth == 0 or self.ends
            if depth == 0:
                return at >= self.only_ends
            frame = self.stack[depth - 1]
            if text[at] == frame.closer:
                depth, at = depth - 1, at + 1
            elif text[at] == ",":
                if frame.array or self.key(frame, at + 1, again=again):
                    return True
                at = _SPACES.match(text, at + 1).end()  # type: ignore[union-attr]
                if text[at : at + 1] != frame.closer:
                    return False
            else:
                keys = self.known_only and frame.keys
                return bool(keys and not frame.array and self.key(frame, at))

    def object(self, schema: dict[str, Any], closer: str = "}") -> dict[str, Any]:
        """Reads members up to the closing bracket.

        Args:
            schema: JSON schema of the object.
            closer: that bracket.

        Returns:
            Values by key.

        Raises:
            Unreadable: no key stands where one must.
        """
        frame = Frame(closer, tuple(properties(schema)))
        self.push(frame)
        out: dict[str, Any] = {}
        while True:
            self.skip(",")
            if self.at >= len(self.text):
                self.missing(closer)
                break
            if self.text[self.at] == closer:
                self.at += 1
                break
            key = self.key(frame, self.at, again=True)
            if key is None:
                raise Unreadable
            name = key.group(1)
            if name in out:
                self.note(twice(name, out[name]))
            self.at = key.end()
            if key.group().rstrip().endswith("="):
                self.note("`=` was read as `:`")
            frame.used.add(name)
            out[name] = self.value(sub(schema, name, self.root))
        self.stack.pop()
        return out

    def array(self, schema: dict[str, Any]) -> list[Any]:
        """Reads items up to the closing bracket; the opening one was read.

        Args:
            schema: JSON schema of the array.

        Returns:
            The items.
        """
        self.push(Frame("]", array=True))
        items = deref(alternative(schema, "array", self.root).get("items"), self.root)
        out: list[Any] = []
        while True:
            self.skip(",")
            if self.at >= len(self.text):
                self.missing("]")
                break
            if self.text[self.at] == "]":
                self.at += 1
                break
            out.append(self.value(items))
        self.stack.pop()
        return out

    def push(self, frame: Frame) -> None:
        """Enters an object or array.

        Args:
            frame: it.

        Raises:
            Unreadable: it is nested too deep.
        """
        if len(self.stack) >= MAX_DEPTH:
            raise Unreadable
        self.stack.append(frame)

    def missing(self, closer: str) -> None:
        """Adds a closing bracket that the text lacks.

        Args:
            closer: that bracket.

        Raises:
            Unreadable: ends may not be added.
        """
        if not self.ends:
            raise Unreadable
        self.note(f"a missing {closer} was added")

    def value(self, schema: dict[str, Any]) -> Any:
        """Reads one value of any type.

        Args:
            schema: JSON schema of the value.

        Returns:
            The value.

        Raises:
            Unreadable: there is none.
        """
        start = self.at
        first = _SPACES.match(self.text, start).end()  # type: ignore[union-attr]
        char = self.text[first : first + 1]
        if char == self.mark:
            self.at = first
            return self.delimited()
        if char and char in "\"'":
            self.at = first
            found, text = self.quoted(char)
            if found:
                return text
            self.at = start
        if char == "{" and allows(schema, "object"):
            self.at = first + 1
            return self.object(alternative(schema, "object", self.root))
        if char == "[" and allows(schema, "array"):
            self.at = first + 1
            return self.array(schema)
        return self.raw(schema)

    def delimited(self) -> str:
        """Reads a text between string delimiters; delimiters inside it were meant as quotation marks.

        Returns:
            The text.

        Raises:
            Unreadable: it never ends.
        """
        end = self.at
        while (end := self.text.find(self.mark, end + 1)) >= 0:
            if self.ends_value(end + 1):
                break
        if end < 0:
            if not self.force:
                raise Unreadable
            self.note("a missing end of a text was added")
            end = self.last_end(self.at + 1)
            text, self.at = self.text[self.at + 1 : end], end
        else:
            text, self.at = self.text[self.at + 1 : end], end + 1
        if self.mark in text:
            self.note("delimiters inside a text were read as quotation marks")
        return text.replace(self.mark, '"')

    def last_end(self, start: int) -> int:
        """Where the closing brackets at the very end begin.

        Args:
            start: index into the text; they do not begin before it.

        Returns:
            Index into the text.
        """
        end = len(self.text.rstrip())
        for frame in self.stack:
            if end > start and self.text[end - 1] == frame.closer:
                end = len(self.text[: end - 1].rstrip(" \t"))
        return end

    def quoted(self, quote: str) -> tuple[bool, str]:
        """Reads a text in plain quotes.

        Args:
            quote: the character it begins with.

        Returns:
            Whether there is one, and the text.
        """
        end = self.at
        while (end := self.text.find(quote, end + 1)) >= 0:
            if _is_escaped(self.text, end):
                continue
            dangling = self.text[end + 1 : end + 2] == self.mark
            if self.ends_value(end + 1 + dangling, again=True):
                inner = self.text[self.at + 1 : end]
                self.at = end + 1 + dangling
                self.note("a text in plain quotes was accepted")
                return True, _unescape(inner, quote).replace(self.mark, '"')
        return False, ""

    def raw(self, schema: dict[str, Any]) -> Any:
        """Text without delimiters, up to where the next argument or the end must be.

        Args:
            schema: JSON schema of the value.

        Returns:
            A number, a constant or a text.

        Raises:
            Unreadable: it never ends.
        """
        stops = re.compile("[" + re.escape(self.mark + ",}])") + "]|$")
        for stop in stops.finditer(self.text, self.at):
            at = stop.start()
            marked = stop.group() == self.mark
            if self.ends_value(at + marked):
                break
        else:
            raise Unreadable
        if not marked and not literal(self.text[self.at : at].strip())[0] and at >= self.only_ends:
            at = max(at, self.last_end(self.at))  # brackets before the last ones belong to the text
        text, self.at = self.text[self.at : at], at + marked
        known, out = literal(text.strip())
        if known and not marked and not only_text(schema):
            if text.strip() in ("None", "True", "False"):
                self.note("Python spelling of a constant was accepted")
            return out
        if not text.strip() and not marked:
            if self.stack[-1].array:
                raise Unreadable
            nothing = "null" in types_of(schema, self.root) and not allows(schema, "string")
            self.note("a missing value was read as " + ("null" if nothing else "an empty text"))
            return None if nothing else ""
        self.note("a text without delimiters was accepted")
        text = text.strip(" \t").replace(self.mark, '"')
        return text[1:] if marked and text[:1] in ('"', "'") else text


def _is_escaped(text: str, at: int) -> bool:
    """Whether an odd number of backslashes stands before a character."""
    start = at
    while start > 0 and text[start - 1] == "\\":
        start -= 1
    return (at - start) % 2 == 1


def _unescape(text: str, quote: str) -> str:
    if quote == '"':
        try:
            out = json.loads(f'"{text}"', strict=False)
            out.encode()  # an escaped half of a surrogate pair is no text
            return str(out)
        except (ValueError, AttributeError):
            pass
    return text.replace("\\" + quote, quote)
