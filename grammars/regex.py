"""Regular expression parser: patterns of JSON Schema → grammar nodes over the characters of the string.

The dialect is ECMA 262 as far as it is regular: \\d and \\w are ASCII, $ is the very end. An expression
without ^ or $ may match anywhere in the string, as JSON Schema says. Look-ahead at the very beginning comes
back as conditions of its own: "^(?=.*[0-9])[a-z0-9]+$" is `Pattern([a-z0-9]+, within=(.*[0-9].*,))`. What is
not regular (references, look-behind, word boundaries) is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from gemma4_gguf.errors import SchemaError
from gemma4_gguf.grammars.grammar import (
    ANY,
    DIGIT,
    EMPTY,
    QUANTIFIERS,
    Chars,
    Either,
    Node,
    Repeat,
    Seq,
    Text,
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
# White space and ends of lines of ECMA-262: all of Unicode's Zs besides.
_SPACES = [(9, 13), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029)]
_SPACE = char_set([*_SPACES, (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)])
_CLASSES = {"d": DIGIT, "w": _WORD, "s": _SPACE}
_CLASSES |= {name.upper(): complement(of) for name, of in _CLASSES.items()}
_CONTROL = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}
_NOT_NEWLINE = complement(chars("\n\r\u2028\u2029"))
_MAX_COUNT = 100_000
_MAX_DEPTH = 60


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
        SchemaError: malformed, not regular, or nested too deeply.
    """
    try:
        return _parse(text, full)
    except SchemaError as error:
        raise SchemaError(error.reason, pointer=pointer) from None


@lru_cache(maxsize=512)
def _parse(text: str, full: bool) -> Pattern:
    return _Parser(text, full).pattern()


def matches(text: str, pattern: Pattern) -> bool:
    """Whether an expression matches a string."""
    inside = all(len(text) in ends_of(node, text, {0}) for node in (pattern.node, *pattern.within))
    return inside and not any(len(text) in ends_of(node, text, {0}) for node in pattern.outside)


def ends_of(node: Node, text: str, starts: set[int]) -> set[int]:
    """Where the strings of a node without references can end in a text, if they begin at some places."""
    if not starts:
        return starts
    if isinstance(node, Text):
        return {at + len(node.value) for at in starts if text.startswith(node.value, at)}
    if isinstance(node, Chars):
        inside = (at for at in starts if at < len(text))
        return {at + 1 for at in inside if any(low <= ord(text[at]) <= high for low, high in node.ranges)}
    if isinstance(node, Seq):
        for item in node.items:
            starts = ends_of(item, text, starts)
        return starts
    if isinstance(node, Either):
        return set().union(*(ends_of(item, text, starts) for item in node.items))
    if not isinstance(node, Repeat):
        raise TypeError(node)
    found = set(starts) if node.least == 0 else set()
    n, seen = 0, set(starts)
    while starts and (node.most is None or n < node.most):
        n, starts = n + 1, ends_of(node.item, text, starts)
        if n >= node.least:
            found |= starts
            starts = starts - seen if n > node.least else starts
            seen |= starts
        elif n > len(text) + 1 and starts == seen:  # it repeats nothing
            return starts
        else:
            seen = starts
    return found


@dataclass(frozen=True)
class _Way:
    """One alternative, and whether it begins at the start and ends at the end of the string."""

    node: Node
    start: bool = False
    end: bool = False


class _Parser:
    """Recursive descent over a pattern.

    Args:
        text: the pattern.
        full: it must match all of the string; otherwise it may match anywhere.
    """

    def __init__(self, text: str, full: bool) -> None:
        self.text, self.full, self.at, self.depth = text, full, 0, 0

    def fail(self, what: str) -> SchemaError:
        """The error to raise, with the place."""
        shown = self.text if len(self.text) <= 200 else f"{self.text[:197]}..."
        return SchemaError(f"pattern {shown!r}: {what} at offset {self.at}")

    def peek(self, *options: str) -> str:
        """The option that comes next, "" for none of them."""
        return next((o for o in options if self.text.startswith(o, self.at)), "")

    def take(self, *options: str) -> str:
        """As `peek`, and passes what it found."""
        found = self.peek(*options)
        self.at += len(found)
        return found

    def pattern(self) -> Pattern:
        """The whole expression: look-aheads at its beginning, then alternatives."""
        within: list[Node] = []
        outside: list[Node] = []
        anchored = self.peek("^(?=", "^(?!", *(("(?=", "(?!") if self.full else ()))
        self.at += anchored.startswith("^")
        while anchored and (sign := self.take("(?=", "(?!")):
            ahead = either(*(seq(way.node, EMPTY if way.end else ANYTHING) for way in self.branches()))
            if not self.take(")"):
                raise self.fail("missing )")
            (within if sign == "(?=" else outside).append(ahead)
        ways = [replace(way, start=True) for way in self.branch()] if anchored else self.branches()
        if self.at < len(self.text):
            raise self.fail("alternatives after a look-ahead" if self.peek("|") else "unbalanced )")
        # Ways with the same anchors stand side by side, so that what is around them is written once.
        kinds: dict[tuple[bool, bool], list[Node]] = {}
        for way in ways:
            kinds.setdefault((self.full or way.start, self.full or way.end), []).append(way.node)
        node = either(
            *(
                seq(EMPTY if start else ANYTHING, either(*nodes), EMPTY if end else ANYTHING)
                for (start, end), nodes in kinds.items()
            )
        )
        return Pattern(node, tuple(within), tuple(outside))

    def branches(self) -> list[_Way]:
        """Alternatives of the whole expression, of a look-ahead, or of a group."""
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise self.fail("groups are nested too deeply")
        found = self.branch()
        while self.take("|"):
            found += self.branch()
        self.depth -= 1
        return found

    def branch(self) -> list[_Way]:
        """One alternative; several where a group at its start or its end is anchored in some of its own."""
        start = bool(self.take("^", "\\A"))
        ways = [_Way(EMPTY, start)]
        nodes: list[Node] = []
        while self.at < len(self.text) and not self.peek("|", ")", "$", "\\Z", "\\z"):
            found = self.atom()
            if isinstance(found, list):
                first, last = not nodes and ways == [_Way(EMPTY, start)], self.at == len(self.text)
                last = last or bool(self.peek("|", ")", "$"))
                if any(way.start and not first for way in found) or any(
                    way.end and not last for way in found
                ):
                    raise self.fail("an anchor in the middle")
                ways = [
                    _Way(seq(way.node, *nodes, more.node), way.start or more.start, more.end)
                    for way in ways
                    for more in found
                ]
                nodes = []
            else:
                nodes.append(self.quantified(found))
        end = bool(self.take("$", "\\Z", "\\z"))
        if end and self.at < len(self.text) and not self.peek("|", ")"):
            raise self.fail("$ in the middle")
        return [_Way(seq(way.node, *nodes), way.start, way.end or end) for way in ways]

    def atom(self) -> Node | list[_Way]:
        """What a quantifier binds to: a group, a character class or a character.

        A group with anchors comes as its alternatives; nothing may be bound to it.
        """
        if self.take("(?:") or self.named_group() or self.plain_group():
            ways = self.branches()
            if not self.take(")"):
                raise self.fail("missing )")
            if any(way.start or way.end for way in ways):
                if self.peek(*QUANTIFIERS, "{"):
                    raise self.fail("an anchor inside a repetition")
                return ways
            return either(*(way.node for way in ways))
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
        if (
            char == "c"
            and self.text[self.at : self.at + 1].isascii()
            and self.text[self.at : self.at + 1].isalpha()
        ):
            self.at += 1
            return chars(chr(ord(self.text[self.at - 1]) % 32))
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
