"""Grammar data model: nodes and named rules.

A `Grammar` is an ordered table of named rules. Everything that makes a grammar (schemas, tools, patterns,
GBNF text) makes one of these, and everything that uses one (GBNF text, Lark text for llguidance) reads it.

llama.cpp sets two limits that shape the text: a bounded repetition may count to 2000 at most (above, it
silently becomes unbounded), and what is repeated must be small. So only single characters and rules are
repeated, and long counts are cut into rules. Reference: llama.cpp's grammars/README.md.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from gemma4_gguf.errors import GrammarError

MAX_CODE = 0x10FFFF
MAX_REPEAT = 1000  # half of llama.cpp's limit
MAX_COUNT = 100_000
# Quantifiers that GBNF, Lark and regular expressions have in common.
QUANTIFIERS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


@contextmanager
def uncollected() -> Iterator[None]:
    """Pauses Python's collector of cycles while a grammar is made, or as a decorator of what makes one.

    A grammar is thousands of small objects without cycles, all of them in use, which it would look through
    again and again: a tenth of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


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


@dataclass(frozen=True)
class Meet:
    """What every item of `within` matches and none of `outside` does. GBNF cannot write it, Lark can."""

    within: tuple[Node, ...]
    outside: tuple[Node, ...] = ()


Node = Text | Chars | Ref | Seq | Either | Repeat | Meet
EMPTY = Seq(())
NOTHING = Either(())  # what no text matches
ANY = Chars(((0, MAX_CODE),))
DIGIT = Chars(((0x30, 0x39),))


def seq(*items: Node) -> Node:
    """All of them in order; nested sequences and neighbouring texts are joined."""
    flat: list[Node] = []
    for item in items:
        for part in item.items if type(item) is Seq else (item,):
            if type(part) is Text:
                if flat and type(last := flat[-1]) is Text:
                    flat[-1] = Text(last.value + part.value)
                elif part.value:
                    flat.append(part)
            elif type(part) is Either and not part.items:
                return NOTHING
            else:
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
    """The item or the empty text."""
    return EMPTY if item in (EMPTY, NOTHING) else Repeat(item, 0, 1)


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
    kind = type(node)
    if kind is Seq or kind is Either:
        return node.items  # type: ignore[union-attr]
    if isinstance(node, Meet):
        return node.within + node.outside
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
    if isinstance(node, Meet):
        return Meet(tuple(map(change, node.within)), tuple(map(change, node.outside)))
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
        meets: its lexemes may hold `Meet`; then it has no GBNF text.
        base: the rules that a notation brought, the same object each time.
        notes: where it is narrower than what it was made of, and how.
    """

    rules: dict[str, Node] = field(default_factory=dict)
    lexemes: set[str] = field(default_factory=set)
    meets: bool = False
    base: dict[str, Node] = field(default_factory=dict, repr=False)
    notes: list[str] = field(default_factory=list)
    _shared: dict[Node, Ref] = field(default_factory=dict, repr=False)

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

    def share(self, name_hint: str, node: Node, *, lexeme: bool = False) -> Node:
        """As `add`, with one rule for equal nodes, and none for what is short."""
        if isinstance(node, (Ref, Text)) or (isinstance(node, Chars) and len(node.ranges) < 4):
            return node
        if node not in self._shared:
            self._shared[node] = self.add(name_hint, node, lexeme=lexeme)
        return self._shared[node]

    def repeat(self, item: Node, least: int, most: int | None, name_hint: str = "part") -> Node:
        """A repetition that llama.cpp counts right, however long, 2500 say as two blocks of 1000 and 500."""
        if most == 0:
            return EMPTY
        if least == most == 1:
            return item
        if self.meets:  # llguidance counts
            return Repeat(item, least, most)
        bounded = (most is not None and most > 1) or least > 1
        if bounded and not isinstance(item, Chars) and not is_character(item):
            item = self.add(name_hint, item)
        if least > MAX_COUNT:
            raise GrammarError(f"a repetition of {least} or more is longer than GBNF text can count")
        if most is not None and most > MAX_COUNT:
            self.notes.append(f"a repetition counts to {MAX_COUNT}, not to {most}")
            most = MAX_COUNT
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


def references(node: Node) -> list[str]:
    """Names of the rules a node refers to, in order."""
    found = []
    stack = [node]
    while stack:
        node = stack.pop()
        if type(node) is Ref:
            found.append(node.name)
        elif type(node) is not Text:
            stack.extend(reversed(children(node)))
    return found


def depth(node: Node) -> int:
    """How deep nodes are nested in a node."""
    deepest, stack = 0, [(node, 1)]
    while stack:
        inner, level = stack.pop()
        deepest = max(deepest, level)
        stack += [(child, level + 1) for child in children(inner)]
    return deepest


def is_character(node: Node) -> bool:
    """Whether a node is a text of one character."""
    return isinstance(node, Text) and len(node.value) == 1


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
