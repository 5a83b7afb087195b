"""Regular expression parser: patterns of JSON Schema → grammar nodes over the characters of the string.

The dialect is ECMA 262 as far as it is regular: \\d, \\w and \\s are ASCII, $ is the very end. An expression
without ^ or $ may match anywhere in the string, as JSON Schema says. Look-ahead at the very beginning comes
back as conditions of its own: "^(?=.*[0-9])[a-z0-9]+$" is `Pattern([a-z0-9]+, within=(.*[0-9].*,))`. What is
not regular (references, look-behind, word boundaries) is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemma4_gguf.errors import SchemaError
from gemma4_gguf.grammars.grammar import (
    ANY,
    DIGIT,
    EMPTY,
    QUANTIFIERS,
    Chars,
    Node,
    Repeat,
    char_set,
    chars,
    complement,
    either,
    hex_code,
    parse_counts,
    seq,
    single_char,
)

ANYTHING = Repeat(ANY, 0, None)
_WORD = char_set([(0x30, 0x39), (0x41, 0x5A), (0x61, 0x7A), (0x5F, 0x5F)])
_SPACE = char_set([(9, 13), (32, 32), (0xA0, 0xA0), (0x2028, 0x2029), (0xFEFF, 0xFEFF)])
_CLASSES = {"d": DIGIT, "w": _WORD, "s": _SPACE}
_CLASSES |= {name.upper(): complement(of) for name, of in _CLASSES.items()}
_CONTROL = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}
_NOT_NEWLINE = complement(chars("\n\r\u2028\u2029"))
_MAX_COUNT = 100_000


@dataclass(frozen=True)
class Pattern:
    """A parsed expression: a string matches if it matches `node`, all of `within` and none of `outside`.

    Args:
        node: over the whole string, character by character, without references.
        within: from positive look-aheads, (?=…).
        outside: from negative look-aheads, (?!…).
    """

    node: Node
    within: tuple[Node, ...] = ()
    outside: tuple[Node, ...] = ()


def parse_pattern(text: str, pointer: str = "", *, full: bool = False) -> Pattern:
    """Read an expression.

    Args:
        text: ECMA 262 regular expression.
        pointer: where it stands in the schema, for the message.
        full: the whole string must match, anchored or not.

    Raises:
        SchemaError: malformed, or not regular.
    """
    return _Parser(text, pointer).whole("full" if full else "whole")


class _Parser:
    """Recursive descent over a pattern.

    `kind` says what is being read, and so what an anchor means: "whole" and "full" for an expression that may
    match anywhere or must match all, "ahead" for a look-ahead, "group" for a group.
    """

    def __init__(self, text: str, pointer: str) -> None:
        self.text, self.pointer, self.at = text, pointer, 0

    def fail(self, what: str) -> SchemaError:
        """The error to raise, with the place."""
        return SchemaError(f"pattern {self.text!r}: {what} at offset {self.at}", pointer=self.pointer)

    def peek(self, *options: str) -> str:
        """The option that comes next, "" for none of them."""
        return next((o for o in options if self.text.startswith(o, self.at)), "")

    def take(self, *options: str) -> str:
        """As `peek`, and passes what it found."""
        found = self.peek(*options)
        self.at += len(found)
        return found

    def whole(self, kind: str) -> Pattern:
        """The whole expression: look-aheads at its beginning, then alternatives."""
        within: list[Node] = []
        outside: list[Node] = []
        start = self.peek("^(?=", "^(?!")
        if start:
            self.at += 1
            while sign := self.take("(?=", "(?!"):
                ahead = self.branches("ahead")
                if not self.take(")"):
                    raise self.fail("missing )")
                (within if sign == "(?=" else outside).append(ahead)
            self.text, self.at = "^" + self.text[self.at :], 0
        node = self.branch(kind) if start else self.branches(kind)
        if self.at < len(self.text):
            raise self.fail("alternatives after a look-ahead" if self.peek("|") else "unbalanced )")
        return Pattern(node, tuple(within), tuple(outside))

    def branches(self, kind: str) -> Node:
        """Alternatives of the whole expression, of a look-ahead at its beginning, or of a group."""
        found = [self.branch(kind)]
        while self.take("|"):
            found.append(self.branch(kind))
        return either(*found)

    def branch(self, kind: str) -> Node:
        """One alternative; where it is not anchored, anything may stand before or after."""
        start = bool(self.take("^", "\\A"))
        if start and kind == "group":
            raise self.fail("^ inside a group")
        items: list[Node] = []
        while self.at < len(self.text) and not self.peek("|", ")", "$", "\\Z", "\\z"):
            items.append(self.quantified(self.atom()))
        end = bool(self.take("$", "\\Z", "\\z"))
        if end and (kind == "group" or (self.at < len(self.text) and not self.peek("|", ")"))):
            raise self.fail("$ in the middle")
        if kind == "group":
            return seq(*items)
        before = EMPTY if start or kind in ("ahead", "full") else ANYTHING
        return seq(before, *items, EMPTY if end or kind == "full" else ANYTHING)

    def atom(self) -> Node:
        """What a quantifier binds to: a group, a character class or a character."""
        if self.take("(?:") or self.named_group() or self.plain_group():
            body = self.branches("group")
            if not self.take(")"):
                raise self.fail("missing )")
            return body
        if self.take("["):
            return self.set_()
        if self.take("."):
            return _NOT_NEWLINE
        if self.take("\\"):
            return self.escape(in_set=False)
        if self.peek("*", "+", "?"):
            raise self.fail("nothing to repeat")
        if self.peek("^", "(?"):
            raise self.fail("not regular or not supported")
        self.at += 1
        return chars(self.text[self.at - 1])

    def plain_group(self) -> bool:
        return not self.peek("(?") and bool(self.take("("))

    def named_group(self) -> bool:
        if self.peek("(?<=", "(?<!") or not self.peek("(?<", "(?P<"):
            return False
        end = self.text.find(">", self.at)
        if end < 0:
            raise self.fail("missing >")
        self.at = end + 1
        return True

    def quantified(self, item: Node) -> Node:
        """An atom with the quantifiers after it: * + ? {2,5}."""
        while True:
            if sign := self.take(*QUANTIFIERS):
                least, most = QUANTIFIERS[sign]
            elif bounds := self.braces():
                least, most = bounds
            else:
                return item
            if self.take("+"):
                raise self.fail("possessive repetition")
            self.take("?")  # lazy or greedy, the same strings match
            item = EMPTY if most == 0 else Repeat(item, least, most)

    def braces(self) -> tuple[int, int | None] | None:
        """The counts of {2}, {2,} or {2,5}, None if the brace is a plain character."""
        end = self.text.find("}", self.at)
        if not self.peek("{") or end < 0:
            return None
        bounds = parse_counts(self.text[self.at + 1 : end])
        if bounds is None:
            return None
        if bounds[1] is not None and (bounds[1] < bounds[0] or bounds[1] > _MAX_COUNT):
            raise self.fail("counts out of order or too large")
        self.at = end + 1
        return bounds

    def set_(self) -> Node:
        """A character class, after its opening bracket."""
        negated = bool(self.take("^"))
        ranges: list[tuple[int, int]] = []
        while not self.take("]"):
            low = self.member()
            if self.peek("-") and not self.peek("-]") and single_char(low):
                self.at += 1
                high = self.member()
                if not single_char(high) or high.ranges[0][0] < low.ranges[0][0]:
                    raise self.fail("bad range")
                ranges.append((low.ranges[0][0], high.ranges[0][0]))
            else:
                ranges += low.ranges
        out = complement(char_set(ranges)) if negated else char_set(ranges)
        if not out.ranges:
            raise self.fail("a set without characters")
        return out

    def member(self) -> Chars:
        """One character or escape inside a character class."""
        if self.at >= len(self.text):
            raise self.fail("missing ]")
        if self.peek("[:", "[=", "[."):
            raise self.fail("POSIX class")
        if self.take("\\"):
            return self.escape(in_set=True)
        self.at += 1
        return chars(self.text[self.at - 1])

    def escape(self, *, in_set: bool) -> Chars:
        """What an escape stands for, after its backslash."""
        if self.at >= len(self.text):
            raise self.fail("lonely backslash")
        char = self.text[self.at]
        self.at += 1
        if char in _CLASSES:
            return _CLASSES[char]
        if char == "b" and in_set:
            return chars("\b")
        if char in _CONTROL and not (char == "0" and self.text[self.at : self.at + 1].isdecimal()):
            return chars(chr(_CONTROL[char]))
        if char == "x":
            return self.hex(2)
        if char == "u" and self.take("{"):
            end = self.text.find("}", self.at)
            out = self.hex(end - self.at)
            self.at += 1
            return out
        if char == "u":
            return self.hex(4)
        if char.isalnum():
            self.at -= 1
            raise self.fail("this escape is not regular or not supported")
        return chars(char)

    def hex(self, n: int) -> Chars:
        code = hex_code(self.text[self.at : self.at + n] if n > 0 else "", n)
        if code is None:
            raise self.fail("bad hexadecimal escape")
        self.at += n
        return Chars(((code, code),))
