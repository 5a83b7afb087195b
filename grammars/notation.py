"""Value notations: how a grammar writes values, as JSON or in the notation of Gemma's tool calls.

The same object, {"city": "Oslo"}, is written {"city": "Oslo"} in JSON, and {city:<|"|>Oslo<|"|>} in a call.
Both notations read their rules for free values from the shipped grammar files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Any, Protocol

from gemma4_gguf.errors import SchemaError
from gemma4_gguf.grammars.gbnf_reader import parse_gbnf
from gemma4_gguf.grammars.grammar import (
    ANY,
    EMPTY,
    MAX_CODE,
    Chars,
    Grammar,
    Node,
    Ref,
    Text,
    char_set,
    chars,
    complement,
    either,
    intersection,
    seq,
    single_char,
    union,
)
from gemma4_gguf.grammars.regex import ANYTHING
from gemma4_gguf.grammars.shipped import load
from gemma4_gguf.special_tokens import QUOTE


@cache
def _base(name: str) -> Grammar:
    """A shipped grammar; whoever changes it changes a copy of its rules."""
    return parse_gbnf(load(name))


class Notation(Protocol):
    """What the compiler asks of a notation.

    Args:
        base: rules for free values: value, object, array, number, boolean, null and `free_text`.
        free_text: name of the rule of any text, quotes included.
        quote: stands before and after a text.
        space: may stand after punctuation.
        forbidden: nodes that no text may match (what would end it too early).
        key_quote: stands before and after the name of a member.
        any_char: one character of any text.
        key_patterns: (pattern, "") that names which are not given must match.
        key_chars: the characters that such a name may begin with, and go on with.
        lexemes: rules of `base` that are the smallest pieces of the notation.
    """

    base: Grammar
    free_text: str
    quote: Node
    space: Node
    forbidden: tuple[Node, ...]
    key_quote: Node
    any_char: Node
    key_patterns: tuple[tuple[str, str], ...]
    key_chars: tuple[Chars, Chars]
    lexemes: frozenset[str]

    def __hash__(self) -> int:
        """Notations are told apart as objects."""

    def char(self, of: Chars) -> Node:
        """One character of a set, as it is written inside a text."""

    def text(self, value: str, pointer: str) -> Node:
        """This very text, quotes included."""

    def unquoted(self, value: str, pointer: str) -> Node:
        """This very text, without quotes."""

    def key(self, name: str) -> Node:
        """The name of a member, before the colon."""

    def order(self, names: Iterable[str]) -> list[str]:
        """The order in which members stand."""


_CONTROL = Chars(((0, 0x1F),))
_BEYOND_ASCII = Chars(((0x80, 0xD7FF), (0xE000, MAX_CODE)))
_HEX = char_set([(0x30, 0x39), (0x41, 0x46), (0x61, 0x66)])
_SHORT = {"\b": "b", "\t": "t", "\n": "n", "\f": "f", "\r": "r"}


class JsonNotation:
    """JSON text: a character may stand as itself or escaped."""

    free_text = "string"
    quote: Node = Text('"')
    space: Node = Ref("ws")
    forbidden: tuple[Node, ...] = ()
    key_quote: Node = quote
    any_char: Node = Ref("char")
    key_patterns: tuple[tuple[str, str], ...] = ()
    key_chars = (ANY, ANY)
    lexemes = frozenset({"string", "number", "boolean", "null", "ws"})

    def __init__(self) -> None:
        self.base = _base("json")

    def char(self, of: Chars) -> Node:
        return self._char(of)

    @staticmethod
    @lru_cache(maxsize=2000)
    def _char(of: Chars) -> Node:
        if (only := single_char(of)) and only.isascii() and only.isprintable() and only not in '"\\':
            return Text(only)
        plain = intersection(of, complement(char_set((*chars('"\\').ranges, *_CONTROL.ranges))))
        ways: list[Node] = [plain] if plain.ranges else []
        ways += [Text("\\" + c) for c in '"\\' if _has(of, c)]
        if intersection(of, _CONTROL) == _CONTROL:
            ways += [seq(Text("\\"), chars("bfnrt")), seq(Text("\\u00"), chars("01"), _HEX)]
        else:
            for code in range(0x20):
                if _has(of, chr(code)):
                    ways.append(seq(Text("\\u"), _between(code, code, _PLAIN)))
                    ways += [Text("\\" + _SHORT[chr(code)])] if chr(code) in _SHORT else []
        ways += [seq(Text("\\u"), _between(0x7F, 0x7F, _PLAIN))] if _has(of, "\x7f") else []
        return either(*ways, *_escaped(intersection(of, _BEYOND_ASCII)))

    def text(self, value: str, pointer: str) -> Node:
        return either(*(Text(f'"{written}"') for written in self._ways(value)))

    def unquoted(self, value: str, pointer: str) -> Node:
        return either(*map(Text, self._ways(value)))

    def _ways(self, value: str) -> list[str]:
        """The text escaped as far as JSON asks, and all of it; half a surrogate pair has an escape only."""
        escaped = json.dumps(value)[1:-1]
        if value.isascii() or _is_broken(value):
            return [escaped]
        return [json.dumps(value, ensure_ascii=False)[1:-1], escaped]

    def key(self, name: str) -> Node:
        return self.text(name, "")

    def order(self, names: Iterable[str]) -> list[str]:
        return list(names)


def _escaped(of: Chars) -> list[Node]:
    """\\uXXXX for characters beyond ASCII, as a surrogate pair above FFFF."""
    ways: list[Node] = []
    for low, high in of.ranges:
        if low <= 0xFFFF:
            digits = _between(low, min(high, 0xFFFF), _PLAIN)
            ways.append(seq(Text("\\u"), digits))
        if high > 0xFFFF:
            halves = _between(max(low, 0x10000) - 0x10000, high - 0x10000, _HALVES)
            ways.append(seq(Text("\\u"), halves))
    return ways


_SIXTEEN = tuple(chars(digit + digit.upper()) for digit in "0123456789abcdef")
_PLAIN = ((EMPTY, _SIXTEEN),) * 4
# A number of 20 bits as two halves of a pair: D8xx to DBxx, and DCxx to DFxx.
_HALVES = (
    (chars("Dd"), _SIXTEEN[8:12]),
    (EMPTY, _SIXTEEN),
    (EMPTY, _SIXTEEN),
    (seq(Text("\\u"), chars("Dd")), _SIXTEEN[12:]),
    (EMPTY, _SIXTEEN),
    (EMPTY, _SIXTEEN),
)


def _between(low: int, high: int, places: tuple[tuple[Node, tuple[Chars, ...]], ...]) -> Node:
    """Numbers from low to high, all written with the same number of digits.

    Args:
        low: the least number.
        high: the greatest.
        places: for each digit, what stands before it, and the sets it is taken from by its value. In a
            surrogate pair (`_HALVES`), D stands before the first digit and \\uD before the fourth.
    """
    if not places:
        return EMPTY
    (before, digits), rest = places[0], places[1:]
    size = math.prod(len(more) for _, more in rest)
    a, b = low // size, high // size
    if a == b:
        return seq(before, digits[a], _between(low % size, high % size, rest))
    ways: list[Node] = []
    if low % size:
        ways.append(seq(before, digits[a], _between(low % size, size - 1, rest)))
        a += 1
    partly = high % size != size - 1
    middle = digits[a : b + (not partly)]
    if middle:
        some = char_set(span for digit in middle for span in digit.ranges)
        ways.append(seq(before, some, _between(0, size - 1, rest)))
    if partly:
        ways.append(seq(before, digits[b], _between(0, high % size, rest)))
    return either(*ways)


_KEY_FIRST = char_set([(0x30, 0x39), (0x41, 0x5A), (0x61, 0x7A), *chars("_@$").ranges])


class ToolCallNotation:
    """Gemma's notation of tool calls: bare keys in alphabetical order, unescaped texts between <|"|>."""

    free_text = "text"
    quote: Node = Text(QUOTE)
    space: Node = EMPTY
    forbidden: tuple[Node, ...] = (seq(ANYTHING, Text(QUOTE), ANYTHING),)
    key_quote: Node = EMPTY
    any_char: Node = ANY
    key_patterns: tuple[tuple[str, str], ...] = ((r"^[A-Za-z0-9_@$][A-Za-z0-9_@$./-]*$", ""),)
    key_chars = (_KEY_FIRST, union(_KEY_FIRST, chars("./-")))
    lexemes = frozenset({"text", "key", "number", "boolean", "null"})

    def __init__(self) -> None:
        self.base = _base("tool_call")

    def char(self, of: Chars) -> Node:
        return Text(only) if (only := single_char(of)) else of

    def text(self, value: str, pointer: str) -> Node:
        return seq(self.quote, self.unquoted(value, pointer), self.quote)

    def unquoted(self, value: str, pointer: str) -> Node:
        if QUOTE in value:
            raise SchemaError(f"{value[:80]!r} holds {QUOTE}, which ends a text", pointer=pointer)
        if _is_broken(value):
            raise SchemaError(f"{value[:80]!r} holds half of a surrogate pair", pointer=pointer)
        return Text(value)

    def key(self, name: str) -> Node:
        return Text(name)

    def order(self, names: Iterable[str]) -> list[str]:
        # The templates print members sorted so, and the model learned them so.
        return sorted(names, key=str.lower)


JSON = JsonNotation()
TOOL_CALL = ToolCallNotation()


def literal(notation: Notation, value: Any, pointer: str) -> Node:
    """A node for exactly this value; space is free where JSON leaves it free."""
    if isinstance(value, str):
        return notation.text(value, pointer)
    space = notation.space
    if isinstance(value, list):
        parts: list[Node] = [Text("["), space]
        for i, item in enumerate(value):
            parts += [Text(","), space] if i else []
            parts.append(literal(notation, item, pointer))
        return seq(*parts, space, Text("]")) if value else seq(Text("["), space, Text("]"))
    if isinstance(value, dict):
        parts = [Text("{"), space]
        for i, name in enumerate(notation.order(value)):
            parts += [Text(","), space] if i else []
            parts += [notation.key(name), Text(":"), space, literal(notation, value[name], pointer)]
        return seq(*parts, space, Text("}")) if value else seq(Text("{"), space, Text("}"))
    return Text(json.dumps(value))


def _is_broken(value: str) -> bool:
    """Whether a text holds half of a surrogate pair, which UTF-8 cannot write."""
    return any("\ud800" <= char <= "\udfff" for char in value)


def _has(of: Chars, char: str) -> bool:
    return any(low <= ord(char) <= high for low, high in of.ranges)
