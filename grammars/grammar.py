"""Grammar data model and GBNF writer: nodes, named rules, and their GBNF text.

A `Grammar` is an ordered table of named rules. Everything that makes a grammar (schemas, tools, patterns,
GBNF text) makes one of these, and everything that uses one (GBNF text, Lark text for llguidance) reads it.

llama.cpp sets two limits that shape the text: a bounded repetition may count to 2000 at most (above, it
silently becomes unbounded), and what is repeated must be small. So only single characters and rules are
repeated, and long counts are cut into rules. Reference: llama.cpp's grammars/README.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

MAX_CODE = 0x10FFFF
MAX_REPEAT = 1000  # half of llama.cpp's limit
# Quantifiers that GBNF, Lark and regular expressions have in common.
QUANTIFIERS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_SIGNS = {counts: sign for sign, counts in QUANTIFIERS.items()}


@dataclass(frozen=True)
class Text:
    """These characters."""

    value: str


@dataclass(frozen=True)
class Chars:
    """One character of a set: sorted, disjoint, inclusive ranges of code points."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Ref:
    """What the rule of this name matches."""

    name: str


@dataclass(frozen=True)
class Seq:
    """All items, one after the other."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Either:
    """One of the items."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """The item at least `least` times, at most `most` times (None: any number)."""

    item: Node
    least: int
    most: int | None


Node = Text | Chars | Ref | Seq | Either | Repeat
EMPTY = Seq(())
ANY = Chars(((0, MAX_CODE),))
DIGIT = Chars(((0x30, 0x39),))


def seq(*items: Node) -> Node:
    """All of them in order; nested sequences and neighbouring texts are joined."""
    flat: list[Node] = []
    for item in items:
        for part in item.items if isinstance(item, Seq) else (item,):
            if isinstance(part, Text) and flat and isinstance(flat[-1], Text):
                flat[-1] = Text(flat[-1].value + part.value)
            elif part != Text(""):
                flat.append(part)
    return flat[0] if len(flat) == 1 else Seq(tuple(flat))


def either(*items: Node) -> Node:
    """One of them; nested alternatives are joined, doubles dropped."""
    flat: dict[Node, None] = {}
    for item in items:
        flat.update(dict.fromkeys(item.items if isinstance(item, Either) else (item,)))
    return next(iter(flat)) if len(flat) == 1 else Either(tuple(flat))


def either_or_none(items: Iterable[Node | None]) -> Node | None:
    """One of those that are not None; None if all are."""
    found = [item for item in items if item is not None]
    return either(*found) if found else None


def optional(item: Node) -> Node:
    """The item or nothing."""
    return item if item == EMPTY else Repeat(item, 0, 1)


def char_set(ranges: Iterable[tuple[int, int]]) -> Chars:
    """Ranges in any order, overlapping or not → a set."""
    merged: list[list[int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], high)
        else:
            merged.append([low, high])
    return Chars(tuple((low, high) for low, high in merged))


def chars(text: str) -> Chars:
    """The set of these characters."""
    return char_set((ord(c), ord(c)) for c in text)


def complement(of: Chars) -> Chars:
    """Every other character."""
    out, start = [], 0
    for low, high in of.ranges:
        if low > start:
            out.append((start, low - 1))
        start = high + 1
    if start <= MAX_CODE:
        out.append((start, MAX_CODE))
    return Chars(tuple(out))


def union(*sets: Chars) -> Chars:
    """Characters in any of them."""
    return char_set(span for one in sets for span in one.ranges)


def intersection(a: Chars, b: Chars) -> Chars:
    """Characters in both."""
    return complement(char_set(complement(a).ranges + complement(b).ranges))


def single_char(of: Chars) -> str:
    """The only character of a set, "" if it has more or none."""
    return chr(of.ranges[0][0]) if len(of.ranges) == 1 and of.ranges[0][0] == of.ranges[0][1] else ""


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly inside a node."""
    if isinstance(node, (Seq, Either)):
        return node.items
    return (node.item,) if isinstance(node, Repeat) else ()


def walk(node: Node) -> Iterator[Node]:
    """A node and all nodes inside it, in reading order; references are not followed."""
    stack = [node]
    while stack:
        node = stack.pop()
        yield node
        stack += reversed(children(node))


def map_children(node: Node, change: Callable[[Node], Node]) -> Node:
    """A node with each node directly inside it changed."""
    if isinstance(node, Seq):
        return seq(*map(change, node.items))
    if isinstance(node, Either):
        return either(*map(change, node.items))
    return Repeat(change(node.item), node.least, node.most) if isinstance(node, Repeat) else node


def parse_counts(text: str) -> tuple[int, int | None] | None:
    """What stands between the braces of {2}, {2,} or {2,5}, as (least, most); None for anything else."""
    least, comma, most = text.partition(",")
    if not least.isdecimal() or (most and not most.isdecimal()):
        return None
    return int(least), int(most) if most else (None if comma else int(least))


@dataclass
class Grammar:
    """Named rules; the one called root is the whole.

    Args:
        rules: in order.
        lexemes: rules of a notation's smallest pieces (texts, numbers, names); between them stands only
            punctuation. Empty if that is not known.
    """

    rules: dict[str, Node] = field(default_factory=dict)
    lexemes: set[str] = field(default_factory=set)

    def name_for(self, name_hint: str) -> str:
        """A free rule name like the hint, reserved: "Größe" gives "gr-e", and "gr-e-2" the next time.

        It is never "root", which is the whole.
        """
        base = re.sub(r"[^a-z0-9]+", "-", name_hint.lower()).strip("-")[:40] or "rule"
        base = base if base[0].isalpha() else f"r-{base}"
        name, n = base, 1
        while name in self.rules or name == "root":
            n += 1
            name = f"{base}-{n}"
        self.rules[name] = EMPTY
        return name

    def add(self, name_hint: str, node: Node, *, lexeme: bool = False) -> Ref:
        """A new rule, unless the node is a reference already."""
        if isinstance(node, Ref):
            return node
        name = self.name_for(name_hint)
        self.rules[name] = node
        if lexeme:
            self.lexemes.add(name)
        return Ref(name)

    def repeat(self, item: Node, least: int, most: int | None, name_hint: str = "part") -> Node:
        """A repetition that llama.cpp counts right, however long, 2500 say as two blocks of 1000 and 500."""
        if most == 0:
            return EMPTY
        if least == most == 1:
            return item
        bounded = (most is not None and most > 1) or least > 1
        if bounded and not isinstance(item, Chars) and not _is_character(item):
            item = self.add(name_hint, item)
        parts: list[Node] = []
        if least > MAX_REPEAT:
            block = self.add(f"{name_hint}-block", Repeat(item, MAX_REPEAT, MAX_REPEAT))
            parts.append(self.repeat(block, least // MAX_REPEAT, least // MAX_REPEAT, name_hint))
            most = None if most is None else most - least + least % MAX_REPEAT
            least %= MAX_REPEAT
        if most is not None and most > MAX_REPEAT:
            parts.append(Repeat(item, least, least) if least > 1 else item if least else EMPTY)
            parts.append(self._up_to(item, most - least, name_hint))
        elif (least, most) != (0, 0):
            parts.append(Repeat(item, least, most))
        return seq(*parts)

    def _up_to(self, item: Node, most: int, name_hint: str) -> Node:
        """0 … most: less than a block, or a block and the rest. No count can be read in two ways."""
        block = self.add(f"{name_hint}-block", Repeat(item, MAX_REPEAT, MAX_REPEAT))
        node: Node = Repeat(item, 0, most % MAX_REPEAT) if most % MAX_REPEAT else EMPTY
        for _ in range(most // MAX_REPEAT):
            rest = self.add(f"{name_hint}-rest", node)
            node = either(seq(block, rest), Repeat(item, 0, MAX_REPEAT - 1))
        return node

    def to_text(self) -> str:
        """The grammar as GBNF: root first, only rules that are reached from it."""
        reached, queue = {"root": None}, ["root"]
        while queue:
            for name in references(self.rules[queue.pop(0)]):
                if name not in reached:
                    reached[name] = None
                    queue.append(name)
        return "".join(f"{name} ::= {write_node(self.rules[name], _GBNF)}\n" for name in reached)


def references(node: Node) -> Iterator[str]:
    """Names of the rules a node refers to, in order."""
    return (inner.name for inner in walk(node) if isinstance(inner, Ref))


def left_recursion(grammar: Grammar) -> str | None:
    """Name of a rule that can begin with itself (llama.cpp refuses those), None if there is none."""
    nullable: set[str] = set()
    while True:
        more = {
            name for name, node in grammar.rules.items() if name not in nullable and _nullable(node, nullable)
        }
        if not more:
            break
        nullable |= more
    starts = {name: set(_starts(node, nullable)) for name, node in grammar.rules.items()}
    for name in starts:
        seen: set[str] = set()
        queue = list(starts[name])
        while queue:
            other = queue.pop()
            if other == name:
                return name
            if other not in seen:
                seen.add(other)
                queue += starts.get(other, ())
    return None


def _nullable(node: Node, nullable: set[str]) -> bool:
    """Whether a node matches the empty string, given the rules that do."""
    if isinstance(node, Ref):
        return node.name in nullable
    if isinstance(node, Seq):
        return all(_nullable(item, nullable) for item in node.items)
    if isinstance(node, Either):
        return any(_nullable(item, nullable) for item in node.items)
    if isinstance(node, Repeat):
        return node.least == 0 or _nullable(node.item, nullable)
    return node == Text("")


def _starts(node: Node, nullable: set[str]) -> Iterator[str]:
    """Names of the rules a node can begin with, given the rules that match the empty string."""
    if isinstance(node, Ref):
        yield node.name
    elif isinstance(node, Repeat):
        yield from _starts(node.item, nullable)
    elif isinstance(node, Either):
        for item in node.items:
            yield from _starts(item, nullable)
    elif isinstance(node, Seq):
        for item in node.items:
            yield from _starts(item, nullable)
            if not _nullable(item, nullable):
                break


@dataclass(frozen=True)
class Syntax:
    """How a grammar language writes nodes.

    Args:
        text: writes literal text.
        char_set: writes a set of characters.
        counts: writes a quantifier for which there is no sign, from (least, most).
        bare_character: a quantifier may follow literal text of one character without brackets.
    """

    text: Callable[[str], str]
    char_set: Callable[[Chars], str]
    counts: Callable[[int, int | None], str]
    bare_character: bool


def write_node(node: Node, syntax: Syntax, inside: bool = False) -> str:
    """Text of a node; `inside` a sequence or repetition, alternatives and sequences need brackets."""
    if isinstance(node, Text):
        return syntax.text(node.value)
    if isinstance(node, Chars):
        return syntax.char_set(node)
    if isinstance(node, Ref):
        return node.name
    if isinstance(node, Seq):
        text = " ".join(write_node(item, syntax, True) for item in node.items) or '""'
        return f"({text})" if inside and len(node.items) > 1 else text
    if isinstance(node, Either):
        text = " | ".join(write_node(item, syntax) for item in node.items)
        return f"({text})" if inside else text
    item = write_node(node.item, syntax, True)
    if isinstance(node.item, (Repeat, Text)) and not (syntax.bare_character and _is_character(node.item)):
        item = f"({item})"
    return item + (_SIGNS.get((node.least, node.most)) or syntax.counts(node.least, node.most))


def class_ranges(of: Chars) -> tuple[str, tuple[tuple[int, int], ...]]:
    """How to write a set as a character class: "^" and the ranges left out if it reaches the last character.

    Otherwise "" and its own ranges.
    """
    others = complement(of).ranges
    negated = bool(of.ranges) and of.ranges[-1][1] == MAX_CODE and bool(others)
    return ("^", others) if negated else ("", of.ranges)


def _is_character(node: Node) -> bool:
    return isinstance(node, Text) and len(node.value) == 1


def _show_text(value: str) -> str:
    return '"' + "".join(map(_escape, value)) + '"'


def _show_set(of: Chars) -> str:
    sign, ranges = class_ranges(of)
    body = "".join(
        _escape(chr(low), True) if low == high else f"{_escape(chr(low), True)}-{_escape(chr(high), True)}"
        for low, high in ranges
    )
    return f"[{sign}{body}]"


def _show_counts(least: int, most: int | None) -> str:
    if least == most:
        return "" if least == 1 else f"{{{least}}}"
    return f"{{{least},{'' if most is None else most}}}"


_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}


def _escape(char: str, in_set: bool = False) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if in_set and char in "[]":
        return "\\" + char
    if (in_set and char in "^-") or ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0:
        return f"\\x{ord(char):02X}"
    if char == '"' and not in_set:
        return '\\"'
    if char.isprintable():
        return char
    return f"\\u{ord(char):04X}" if ord(char) <= 0xFFFF else f"\\U{ord(char):08X}"


_GBNF = Syntax(_show_text, _show_set, _show_counts, bare_character=True)


def hex_code(digits: str, n: int) -> int | None:
    """The code point that n hexadecimal digits name.

    Args:
        digits: as written after an escape such as \\x or \\u.
        n: how many belong there, at least 1.

    Returns:
        None for anything else, such as "+1" or "1_0", which int() would take, and beyond Unicode.
    """
    if len(digits) != n or not re.fullmatch(r"[0-9A-Fa-f]+", digits):
        return None
    code = int(digits, 16)
    return code if code <= MAX_CODE else None
