"""GBNF reader: text → `Grammar`. Reference: llama.cpp's grammars/README.md."""

from __future__ import annotations

from gemma4_gguf.errors import GrammarError
from gemma4_gguf.grammars.analysis import left_recursion
from gemma4_gguf.grammars.grammar import (
    ANY,
    EMPTY,
    QUANTIFIERS,
    Grammar,
    Node,
    Ref,
    Repeat,
    Text,
    char_set,
    complement,
    either,
    hex_code,
    parse_counts,
    references,
    seq,
)

_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}
_HEX = {"x": 2, "u": 4, "U": 8}
_MAX_DEPTH = 100  # brackets in brackets


def parse_gbnf(text: str) -> Grammar:
    """Read a grammar.

    Args:
        text: GBNF with a rule called root. Token references (`<name>`) need a vocabulary and are refused.

    Raises:
        GrammarError: malformed; a rule is missing; a rule begins with itself, which llama.cpp cannot follow.
    """
    reader = _Reader(text)
    grammar = reader.grammar()
    for name, node in grammar.rules.items():
        for other in references(node):
            if other not in grammar.rules:
                raise GrammarError(f"rule {name!r} uses {other!r}, which is not defined")
    if "root" not in grammar.rules:
        raise GrammarError("a grammar needs a rule called root; found " + ", ".join(grammar.rules))
    if found := left_recursion(grammar):
        raise GrammarError(f"rule {found!r} can begin with itself; put something before the recursion")
    return grammar


class _Reader:
    """Recursive descent over a text; `nested` means inside brackets, where a line may end."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth = text, 0, 0

    def fail(self, what: str) -> GrammarError:
        """The error to raise, with the place."""
        line = self.text.count("\n", 0, self.at) + 1
        near = self.text[self.at : self.at + 20].split("\n")[0]
        return GrammarError(f"line {line}: {what} at {near!r}")

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def take(self, word: str) -> bool:
        """Whether a word comes next; it is passed if so."""
        found = self.text.startswith(word, self.at)
        self.at += len(word) * found
        return found

    def skip(self, newlines: bool) -> None:
        """Pass space and comments, and the ends of lines if `newlines`."""
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif char in " \t" or (newlines and char in "\r\n"):
                self.at += 1
            else:
                return

    def grammar(self) -> Grammar:
        grammar = Grammar()
        self.skip(True)
        while self.at < len(self.text):
            name = self.name()
            self.skip(False)
            if not self.take("::="):
                raise self.fail("expected ::=")
            self.skip(True)
            grammar.rules[name] = self.alternatives(False)
            if self.peek() not in ("", "\r", "\n"):
                raise self.fail("expected the end of the line")
            self.skip(True)
        return grammar

    def name(self) -> str:
        start = self.at
        while self.peek().isascii() and (self.peek().isalnum() or self.peek() in "-_") and self.peek():
            self.at += 1
        if start == self.at:
            raise self.fail("expected a rule name")
        return self.text[start : self.at]

    def alternatives(self, nested: bool) -> Node:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise self.fail("brackets are nested too deeply")
        ways = [self.sequence(nested)]
        while self.take("|"):
            self.skip(True)
            ways.append(self.sequence(nested))
        self.depth -= 1
        return either(*ways)

    def sequence(self, nested: bool) -> Node:
        items: list[Node] = []
        while (item := self.item()) is not None:
            self.skip(nested)
            items.append(self.quantified(item, nested))
            self.skip(nested)
        return seq(*items)

    def item(self) -> Node | None:
        char = self.peek()
        if self.take('"'):
            return Text(self.characters('"'))
        if self.take("["):
            return self.char_set()
        if self.take("("):
            self.skip(True)
            inner = self.alternatives(True)
            if not self.take(")"):
                raise self.fail("expected )")
            return inner
        if self.take("."):
            return ANY
        if char and (char == "<" or char == "!"):
            raise self.fail("token references are not supported: write the text")
        if char.isascii() and (char.isalnum() or char in "-_") and char:
            return Ref(self.name())
        return None

    def quantified(self, item: Node, nested: bool) -> Node:
        """An item with the quantifiers after it: * + ? {2,5}."""
        while True:
            if sign := next((sign for sign in QUANTIFIERS if self.take(sign)), ""):
                item = Repeat(item, *QUANTIFIERS[sign])
            elif self.peek() == "{":
                item = self.braces(item)
            else:
                return item
            self.skip(nested)

    def braces(self, item: Node) -> Node:
        end = self.text.find("}", self.at)
        counts = parse_counts(self.text[self.at + 1 : max(end, self.at + 1)].replace(" ", ""))
        if end < 0 or counts is None:
            raise self.fail("expected a count such as {2}, {2,} or {2,5}")
        self.at = end + 1
        low, high = counts
        if high is not None and high < low:
            raise self.fail("counts out of order")
        return EMPTY if high == 0 else Repeat(item, low, high)

    def characters(self, end: str) -> str:
        out = []
        while not self.take(end):
            out.append(self.character())
        return "".join(out)

    def character(self) -> str:
        if self.at >= len(self.text):
            raise self.fail("unexpected end")
        char = self.text[self.at]
        self.at += 1
        if char != "\\":
            return char
        kind = self.peek()
        self.at += 1
        if kind in _ESCAPES:
            return _ESCAPES[kind]
        digits = self.text[self.at : self.at + _HEX.get(kind, 0)]
        code = hex_code(digits, _HEX.get(kind, 0))
        if code is None:
            raise self.fail("unknown escape")
        self.at += len(digits)
        return chr(code)

    def char_set(self) -> Node:
        inverted = self.take("^")
        ranges: list[tuple[int, int]] = []
        while not self.take("]"):
            low = high = ord(self.character())
            if self.peek() == "-" and self.text[self.at + 1 : self.at + 2] != "]":
                self.at += 1
                high = ord(self.character())
            if high < low:
                raise self.fail("range out of order")
            ranges.append((low, high))
        return complement(char_set(ranges)) if inverted else char_set(ranges)
