"""Object compiler: the members of an object in declared order, and after them those of other names.

A required "a" and an optional "b" become, space left out: "\\"a\\":" integer ("," "\\"b\\":" string)?
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from gemma4_gguf.errors import SchemaError
from gemma4_gguf.grammars.grammar import EMPTY, Grammar, Node, Text, either_or_none, optional, seq
from gemma4_gguf.grammars.notation import Notation
from gemma4_gguf.grammars.regex import parse_pattern
from gemma4_gguf.grammars.schema_alternatives import expand
from gemma4_gguf.grammars.schema_shapes import Alternative, Members, Subschema, deduplicated, intersect
from gemma4_gguf.grammars.schema_strings import matches, text_body


class Compiler(Protocol):
    """What compiles the value of a member: `schema_compiler.Compiler`."""

    root: Any
    grammar: Grammar
    notation: Notation

    def compile(self, subschemas: tuple[Subschema, ...], name_hint: str) -> Node | None:
        """The values that every one of these schemas allows; None if there is none."""


def write_members(
    compiler: Compiler, members: Members, pointer: str, name_hint: str
) -> tuple[Node | None, bool] | None:
    """What stands between the braces of an object.

    Args:
        compiler: of the schema, for the values.
        members: what the schema says of the members.
        pointer: where the schema stands, for messages.
        name_hint: what rules may be called.

    Returns:
        One or more members (None if there can be none), and whether there may be none; None if nothing can
        satisfy the limits.

    Raises:
        SchemaError: the limits cannot be expressed.
    """
    entries: list[tuple[Node, bool]] = []
    for name in _names(compiler, members):
        subschemas = _value_schemas(members, name)
        node = None if subschemas is None else compiler.compile(subschemas, name)
        if node is None:
            if name in members.required:
                return None
            continue
        pair = seq(compiler.notation.key(name), Text(":"), compiler.notation.space, node)
        entries.append((pair, name in members.required))
    additional = _additional(compiler, members, name_hint)
    return _MemberSequence(compiler, entries, additional, members, pointer, name_hint).write()


def _names(compiler: Compiler, members: Members) -> list[str]:
    """Names that the schema gives, in the order of the notation."""
    names = [*members.declared, *(name for name in members.required if name not in members.declared)]
    return compiler.notation.order(names)


def _value_schemas(members: Members, name: str) -> tuple[Subschema, ...] | None:
    """All schemas of the value under a given name, those of matching patterns too; None if not allowed."""
    hits = [subschema for text, at, subschema in members.patterned if matches(name, parse_pattern(text, at))]
    if name not in members.declared and hits:
        return tuple(hits)
    subschemas = members.schemas_for(name)
    return None if subschemas is None else deduplicated((*subschemas, *hits))


def _additional(compiler: Compiler, members: Members, name_hint: str) -> Node | None:
    """One member under a name that the schema does not give (patternProperties, additionalProperties)."""
    patterns = [(parse_pattern(text, at), at, subschema) for text, at, subschema in members.patterned]
    declared = tuple(seq(*(Text(c) for c in name)) for name in _names(compiler, members))
    names = _name_limits(compiler, members)
    if names is None:
        return None
    ways = []
    for i, (pattern, at, subschema) in enumerate(patterns):
        if pattern.within or pattern.outside:
            raise SchemaError("look-ahead in patternProperties", pointer=at)
        # A name that two patterns match would have to satisfy both schemas: leave it out.
        others = tuple(other.node for j, (other, _, _) in enumerate(patterns) if j != i)
        alternative = Alternative(
            at, frozenset({"string"}), patterns=((members.patterned[i][0], at), *names.patterns)
        )
        ways.append(_pair(compiler, alternative, (*declared, *others), (subschema,), name_hint))
    free = members.additional is not None and (members.additional_given or not (members.declared or patterns))
    if free and members.additional is not None:
        forbidden = (*declared, *(pattern.node for pattern, _, _ in patterns))
        ways.append(_pair(compiler, names, forbidden, members.additional, name_hint))
    return either_or_none(ways)


def _name_limits(compiler: Compiler, members: Members) -> Alternative | None:
    """What propertyNames asks of a name, as an alternative for strings; None if no name will do."""
    alternatives = [Alternative("", frozenset({"string"}))]
    for subschema in members.names:
        alternatives = intersect(alternatives, expand(compiler.root, subschema), subschema.pointer)
    where = members.names[0].pointer if members.names else ""
    if members.names and members.declared:
        raise SchemaError("propertyNames beside properties cannot be expressed", pointer=where)
    if len(alternatives) > 1:
        raise SchemaError("propertyNames with alternatives; use a pattern or an enum", pointer=where)
    return alternatives[0] if alternatives else None


def _pair(
    compiler: Compiler,
    names: Alternative,
    forbidden: tuple[Node, ...],
    subschemas: tuple[Subschema, ...],
    name_hint: str,
) -> Node | None:
    """One member: a name within `names` that matches none of `forbidden`, and its value."""
    notation, grammar = compiler.notation, compiler.grammar
    value = compiler.compile(subschemas, f"{name_hint}-value")
    if names.values is not None:
        key = either_or_none(notation.key(name) for name in names.values if isinstance(name, str))
    else:
        names = replace(names, patterns=names.patterns + notation.key_patterns)
        body = text_body(names, notation, grammar, forbidden=forbidden)
        key = None if body is None else seq(notation.key_quote, body, notation.key_quote)
    if key is None or value is None:
        return None
    return seq(grammar.add(f"{name_hint}-name", key, lexeme=True), Text(":"), notation.space, value)


class _MemberSequence:
    """Compiles the members of an object, one after the other, as an automaton of (entry, members so far).

    Methods take i, the next of the entries, and n, how many members stand before it; n decides whether a
    comma comes first and whether minProperties and maxProperties hold.

    Args:
        compiler: its grammar takes the rules.
        entries: each given member, and whether it is required.
        additional: any other member, None if there are none.
        members: their limits.
        pointer: where the schema stands, for messages.
        name_hint: what rules may be called.
    """

    def __init__(
        self,
        compiler: Compiler,
        entries: list[tuple[Node, bool]],
        additional: Node | None,
        members: Members,
        pointer: str,
        name_hint: str,
    ) -> None:
        self.grammar, self.name_hint = compiler.grammar, name_hint
        self.entries, self.additional = entries, additional
        self.least, self.most, self.pointer = members.least, members.most, pointer
        self.comma = seq(Text(","), compiler.notation.space)
        self.made: dict[tuple[int, int], Node | None] = {}
        self.uses: dict[tuple[int, int], int] = {}

    def write(self) -> tuple[Node | None, bool] | None:
        """As `write_members`."""
        self.count(0, 0)
        none = self.least == 0 and not any(required for _, required in self.entries)
        some = self.after(0, 0)
        if some == EMPTY:
            some = None
        return (some, none) if some is not None or none else None

    def limit(self, n: int) -> int:
        """The count n, or a lower one that has the same consequences: fewer states."""
        return n if self.most is not None else min(n, max(self.least, 1))

    def count(self, i: int, n: int) -> None:
        """Count how often each state is entered: what is entered twice becomes a rule."""
        self.uses[i, n] = self.uses.get((i, n), 0) + 1
        if self.uses[i, n] == 1 and i < len(self.entries):
            if self.most is None or n < self.most:
                self.count(i + 1, self.limit(n + 1))
            if not self.entries[i][1]:
                self.count(i + 1, n)

    def after(self, i: int, n: int) -> Node | None:
        """All members from entry i on, after n others; at least one if n is 0. A rule if used twice."""
        if (i, n) not in self.made:
            node = self.build(i, n)
            if node is not None and node != EMPTY and self.uses.get((i, n), 0) > 1:
                node = self.grammar.add(f"{self.name_hint}-more", node)
            self.made[i, n] = node
        return self.made[i, n]

    def build(self, i: int, n: int) -> Node | None:
        """The node for `after`; None if the limits cannot be met from here."""
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
        return either_or_none(way for way in ways if not (n == 0 and way == EMPTY))

    def rest(self, n: int) -> Node | None:
        """Additional members after n others."""
        missing = self.least - n
        if self.additional is None:
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
        more = seq(self.comma, self.additional)
        if n:
            return self.grammar.repeat(more, max(missing, 0), room, f"{self.name_hint}-further")
        again = self.grammar.repeat(more, 0, None if room is None else room - 1, f"{self.name_hint}-further")
        return seq(self.additional, again)
