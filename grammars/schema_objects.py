"""The members of an object, in order: required ones always, optional ones or not, further ones last."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from gemma4_gguf.errors import SchemaError
from gemma4_gguf.grammars.grammar import EMPTY, Grammar, Node, Text, either, optional, seq
from gemma4_gguf.grammars.notation import Notation
from gemma4_gguf.grammars.regex import parse_pattern
from gemma4_gguf.grammars.schema_alternatives import expand
from gemma4_gguf.grammars.schema_shapes import Flat, Members, Sub, meet, once
from gemma4_gguf.grammars.schema_strings import matches, text_body


class Compiler(Protocol):
    """What compiles the value of a member: `schema_compiler.Compiler`."""

    root: Any
    grammar: Grammar
    notation: Notation

    def compile(self, subs: tuple[Sub, ...], wish: str) -> Node | None:
        """The values that every one of these schemas allows; None if there is none."""


def write_members(
    compiler: Compiler, members: Members, pointer: str, wish: str
) -> tuple[Node | None, bool] | None:
    """What stands between the braces.

    Returns: one or more members (None if there can be none) and whether there may be none; None if nothing
    can satisfy the limits.

    Raises:
        SchemaError: the limits cannot be expressed.
    """
    entries: list[tuple[Node, bool]] = []
    comma = Text(":")
    for name in _names(compiler, members):
        subs = _value_schemas(members, name)
        node = None if subs is None else compiler.compile(subs, name)
        if node is None:
            if name in members.required:
                return None
            continue
        pair = seq(compiler.notation.key(name), comma, compiler.notation.space, node)
        entries.append((pair, name in members.required))
    further = _further(compiler, members, wish)
    return _Chain(compiler, entries, further, members, pointer, wish).write()


def _names(compiler: Compiler, members: Members) -> list[str]:
    names = [*members.declared, *(name for name in members.required if name not in members.declared)]
    return compiler.notation.order(names)


def _value_schemas(members: Members, name: str) -> tuple[Sub, ...] | None:
    hits = [sub for text, at, sub in members.patterned if matches(name, parse_pattern(text, at))]
    if name not in members.declared and hits:
        return tuple(hits)
    subs = members.under(name)
    return None if subs is None else once((*subs, *hits))


def _further(compiler: Compiler, members: Members, wish: str) -> Node | None:
    """One member under a name that is not declared."""
    patterns = [(parse_pattern(text, at), at, sub) for text, at, sub in members.patterned]
    declared = tuple(seq(*(Text(c) for c in name)) for name in _names(compiler, members))
    names = _name_limits(compiler, members, wish)
    if names is None:
        return None
    ways = []
    for i, (pattern, at, sub) in enumerate(patterns):
        if pattern.within or pattern.outside:
            raise SchemaError("look-ahead in patternProperties", pointer=at)
        # A name that two patterns match would have to satisfy both schemas: leave it out.
        others = tuple(other.node for j, (other, _, _) in enumerate(patterns) if j != i)
        flat = Flat(at, frozenset({"string"}), patterns=((members.patterned[i][0], at), *names.patterns))
        ways.append(_pair(compiler, flat, (*declared, *others), (sub,), wish))
    free = members.further is not None and (members.stated or not (members.declared or patterns))
    if free and members.further is not None:
        barred = (*declared, *(pattern.node for pattern, _, _ in patterns))
        ways.append(_pair(compiler, names, barred, members.further, wish))
    found = [way for way in ways if way is not None]
    return either(*found) if found else None


def _name_limits(compiler: Compiler, members: Members, wish: str) -> Flat | None:
    """Limits on further names as those of one text; None if no name will do."""
    flats = [Flat("", frozenset({"string"}))]
    for sub in members.names:
        flats = meet(flats, expand(compiler.root, sub), sub.pointer)
    where = members.names[0].pointer if members.names else ""
    if members.names and members.declared:
        raise SchemaError("propertyNames beside properties cannot be expressed", pointer=where)
    if len(flats) > 1:
        raise SchemaError("propertyNames with alternatives; use a pattern or an enum", pointer=where)
    return flats[0] if flats else None


def _pair(
    compiler: Compiler, names: Flat, barred: tuple[Node, ...], subs: tuple[Sub, ...], wish: str
) -> Node | None:
    notation, grammar = compiler.notation, compiler.grammar
    value = compiler.compile(subs, f"{wish}-value")
    if names.values is not None:
        keys = [notation.key(name) for name in names.values if isinstance(name, str)]
        key: Node | None = either(*keys) if keys else None
    else:
        names = replace(names, patterns=names.patterns + notation.key_patterns)
        body = text_body(names, notation, grammar, barred=barred)
        key = None if body is None else seq(notation.key_quote, body, notation.key_quote)
    if key is None or value is None:
        return None
    return seq(grammar.add(f"{wish}-name", key, lexeme=True), Text(":"), notation.space, value)


class _Chain:
    """Members one after the other, with the number written so far where it matters."""

    def __init__(
        self,
        compiler: Compiler,
        entries: list[tuple[Node, bool]],
        further: Node | None,
        members: Members,
        pointer: str,
        wish: str,
    ) -> None:
        self.grammar, self.entries, self.further, self.wish = compiler.grammar, entries, further, wish
        self.least, self.most, self.pointer = members.least, members.most, pointer
        self.comma = seq(Text(","), compiler.notation.space)
        self.made: dict[tuple[int, int], Node | None] = {}
        self.uses: dict[tuple[int, int], int] = {}

    def write(self) -> tuple[Node | None, bool] | None:
        self.count(0, 0)
        none = self.least == 0 and not any(required for _, required in self.entries)
        some = self.after(0, 0)
        if some == EMPTY:
            some = None
        return (some, none) if some is not None or none else None

    def limit(self, n: int) -> int:
        """Counts that make no difference any more are one."""
        return n if self.most is not None else min(n, max(self.least, 1))

    def count(self, i: int, n: int) -> None:
        self.uses[i, n] = self.uses.get((i, n), 0) + 1
        if self.uses[i, n] == 1 and i < len(self.entries):
            if self.most is None or n < self.most:
                self.count(i + 1, self.limit(n + 1))
            if not self.entries[i][1]:
                self.count(i + 1, n)

    def after(self, i: int, n: int) -> Node | None:
        """What follows when entries before i are done and n members are written; from n = 0 at least one."""
        if (i, n) not in self.made:
            node = self.build(i, n)
            if node is not None and node != EMPTY and self.uses.get((i, n), 0) > 1:
                node = self.grammar.add(f"{self.wish}-more", node)
            self.made[i, n] = node
        return self.made[i, n]

    def build(self, i: int, n: int) -> Node | None:
        if i == len(self.entries):
            return self.rest(n)
        pair, required = self.entries[i]
        ways: list[Node | None] = []
        if self.most is None or n < self.most:
            after = self.after(i + 1, self.limit(n + 1))
            ways.append(None if after is None else seq(self.comma if n else EMPTY, pair, after))
        if not required:
            skipped = self.after(i + 1, n)
            simple = len(ways) == 1 and ways[0] is not None and self.limit(n + 1) == n
            if simple and skipped is not None:
                return seq(optional(seq(self.comma, pair)), skipped)
            ways.append(skipped)
        found = [way for way in ways if way is not None and not (n == 0 and way == EMPTY)]
        return either(*found) if found else None

    def rest(self, n: int) -> Node | None:
        """Further members after n others."""
        missing = self.least - n
        if self.further is None:
            return EMPTY if missing <= 0 and n else None
        if missing > 1:
            # Two further members could have the same name, and a parser would keep one of them.
            raise SchemaError(
                "minProperties cannot be guaranteed by members that are not declared",
                pointer=f"{self.pointer}/minProperties",
            )
        room = None if self.most is None else self.most - n
        if room is not None and room <= 0:
            return EMPTY if missing <= 0 and n else None
        more = seq(self.comma, self.further)
        if n:
            return self.grammar.repeat(more, max(missing, 0), room, f"{self.wish}-further")
        again = self.grammar.repeat(more, 0, None if room is None else room - 1, f"{self.wish}-further")
        return seq(self.further, again)
