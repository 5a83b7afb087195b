"""Object compiler: the members of an object in declared order, and after them those of other names.

A required "a" and an optional "b" become, space left out: "\\"a\\":" integer ("," "\\"b\\":" string)?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Protocol

from gemma4_gguf.errors import SchemaError
from gemma4_gguf.grammars.grammar import (
    EMPTY,
    NOTHING,
    Either,
    Grammar,
    Node,
    Ref,
    Text,
    either,
    either_or_none,
    optional,
    seq,
)
from gemma4_gguf.grammars.lengths import least_of
from gemma4_gguf.grammars.notation import Notation
from gemma4_gguf.grammars.regex import matches, parse_pattern
from gemma4_gguf.grammars.schema_alternatives import Expander
from gemma4_gguf.grammars.schema_difference import value_schemas
from gemma4_gguf.grammars.schema_shapes import Alternative, Layer, Members, Subschema, deduplicated
from gemma4_gguf.grammars.schema_strings import text_body
from gemma4_gguf.grammars.words import words_except

_MAX_KINDS = 16
_MAX_STATES = 3000  # above, the counts of optional members are kept by allowing fewer combinations


class Compiler(Protocol):
    """What compiles the value of a member: `schema_compiler.Compiler`."""

    expander: Expander
    grammar: Grammar
    notation: Notation

    def compile(self, subschemas: tuple[Subschema, ...], name_hint: str) -> Node:
        """The values that every one of these schemas allows."""


def write_members(
    compiler: Compiler, members: Members, pointer: str, name_hint: str
) -> tuple[Node | None, bool]:
    """What stands between the braces of an object.

    Args:
        compiler: of the schema, for the values.
        members: what the schema says of the members.
        pointer: where the schema stands, for messages.
        name_hint: what rules may be called.

    Returns:
        One or more members (None if there can be none), and whether there may be none.

    Raises:
        SchemaError: the limits cannot be expressed.
    """
    entries: list[tuple[Node, bool]] = []
    given = _given_names(compiler, members)
    for name in given:
        subschemas = value_schemas(members, name)
        allowed = compiler.expander.difference.allows(members.names, name)
        if subschemas is None or not allowed:
            if name in members.required:
                return None, False
            continue
        node = compiler.compile(subschemas, name)
        if node == NOTHING:
            if name in members.required:
                return None, False
            continue
        pair = seq(compiler.notation.key(name), Text(":"), compiler.notation.space, node)
        entries.append((pair, name in members.required))
    further = _further(compiler, members, given, name_hint)
    return _Sequence(compiler, entries, further, members, pointer, name_hint).write()


def _given_names(compiler: Compiler, members: Members) -> list[str]:
    """Names that the schema gives, in the order of the notation."""
    names = dict.fromkeys([*members.declared(), *members.required])
    listed = [alternative.values for alternative in compiler.expander.conjunction(members.names)]
    if members.names and all(values is not None for values in listed):
        names |= dict.fromkeys(name for values in listed for name in values or () if isinstance(name, str))
    return compiler.notation.order(names)


def _further(compiler: Compiler, members: Members, given: Sequence[str], name_hint: str) -> Node | None:
    """One member under a name that the schema does not give (patternProperties, additionalProperties)."""
    layers = members.layers or (Layer(),)
    free = any(layer.additional_given for layer in layers) or not any(
        layer.declared or layer.patterned for layer in layers
    )
    limits = compiler.expander.conjunction(members.names) if members.names else [Alternative("")]
    limits = [limit for limit in limits if "string" in limit.types and limit.values is None]
    not_here = [*given, *members.forbidden]
    kinds = list(product(*(_kinds(layer) for layer in layers)))
    if len(kinds) > _MAX_KINDS:
        raise SchemaError("too many patternProperties to be combined", pointer=layers[0].patterned[0][1])
    ways: list[Node | None] = []
    for kind in kinds:
        if all(name is None for name, _, _ in kind) and not free:
            continue
        if any(schema is None for _, _, schema in kind):
            continue
        patterns = tuple(name for name, _, _ in kind if name is not None)
        # A name that two patterns of one schema match would have to satisfy both: it is left out.
        others = tuple(other for _, left_out, _ in kind for other in left_out)
        if {text for text, _ in patterns} & {text for text, _ in others}:
            continue
        subschemas = deduplicated(schema for _, _, schema in kind if schema is not None)
        value = compiler.compile(subschemas, f"{name_hint}-value")
        if value == NOTHING:
            continue
        for limit in limits:
            names = replace(
                limit, patterns=limit.patterns + patterns, other_patterns=limit.other_patterns + others
            )
            key = _key(compiler, names, not_here)
            if key is not None:
                name = compiler.grammar.add(f"{name_hint}-name", key, lexeme=True)
                ways.append(seq(name, Text(":"), compiler.notation.space, value))
    return either_or_none(ways)


_Named = tuple[str, str]


def _kinds(layer: Layer) -> list[tuple[_Named | None, tuple[_Named, ...], Subschema | None]]:
    """Kinds of names that a layer does not declare: pattern, patterns not to match, schema of values."""
    patterns = tuple((text, at) for text, at, _ in layer.patterned)
    kinds: list[tuple[_Named | None, tuple[_Named, ...], Subschema | None]] = []
    for i, (text, at, schema) in enumerate(layer.patterned):
        kinds.append(((text, at), patterns[:i] + patterns[i + 1 :], schema))
    return [*kinds, (None, patterns, layer.additional)]


def _key(compiler: Compiler, names: Alternative, not_here: Sequence[str]) -> Node | None:
    """A name within limits that is none of some; None if there is none."""
    notation, grammar = compiler.notation, compiler.grammar
    if names.is_free_text() and not not_here and not notation.key_patterns:
        return Ref(notation.free_text)
    if names.is_free_text() and not grammar.meets:
        return _quoted(notation, words_except(not_here, notation, grammar))
    patterns = names.patterns + notation.key_patterns
    possible = [
        name for name in not_here if all(matches(name, parse_pattern(*pattern)) for pattern in patterns)
    ]
    forbidden = (Either(tuple(map(Text, possible))),) if possible else ()
    body = text_body(replace(names, patterns=patterns), notation, grammar, forbidden=forbidden)
    return None if body is None else _quoted(notation, body)


def _quoted(notation: Notation, body: Node) -> Node:
    return seq(notation.key_quote, body, notation.key_quote)


class _Sequence:
    """The members of an object, one after the other.

    With a required one among them, those before it put a comma after themselves, and those after it a comma
    before. Without, they are halved: at least one of all is at least one of the first half, and perhaps some
    of the second, or at least one of the second.

    Args:
        compiler: its grammar takes the rules.
        entries: each given member, and whether it is required.
        further: any other member, None if there are none.
        members: their limits.
        pointer: where the schema stands, for messages.
        name_hint: what rules may be called.
    """

    def __init__(
        self,
        compiler: Compiler,
        entries: list[tuple[Node, bool]],
        further: Node | None,
        members: Members,
        pointer: str,
        name_hint: str,
    ) -> None:
        self.grammar, self.name_hint = compiler.grammar, name_hint
        self.entries, self.further, self.pointer = entries, further, pointer
        required = sum(needed for _, needed in entries)
        # Limits of the members that may be there or not.
        self.least = max(members.least - required, 0)
        self.most = None if members.most is None else members.most - required
        if self.most is not None and further is None and self.most >= len(entries) - required:
            self.most = None
        self.comma = seq(Text(","), compiler.notation.space)
        self.required = required

    def write(self) -> tuple[Node | None, bool]:
        """As `write_members`."""
        optionals = len(self.entries) - self.required
        if self.most is not None and self.most < self.least:
            return None, False
        if self.further is None and self.least > optionals:
            return None, False
        if self.further is not None and self.least > 1 + optionals:
            # Two further members could have the same name, and a parser would keep one of them.
            raise SchemaError(
                "minProperties cannot be guaranteed by members that are not declared",
                pointer=f"{self.pointer}/minProperties",
            )
        none = not self.required and not self.least
        if self.most == 0:
            self.entries, self.further = [entry for entry in self.entries if entry[1]], None
            self.most = None
        counted = self.least > (0 if self.required else 1) or self.most is not None
        if counted and not (self.further is not None and not optionals):
            if self._states() > _MAX_STATES:
                self._group()
            if self.least > (0 if self.required else 1) or self.most is not None:
                return self._counted(), none
        return self._plain(), none

    def _states(self) -> int:
        """States of the automaton that counts."""
        return (len(self.entries) + 1) * (max(self.least, self.most or 0) + 1)

    def _plain(self) -> Node | None:
        """All members, whatever their number, but for the bound of further ones."""
        further = None
        if self.further is not None:
            high = None if self.most is None else self.most - 1
            more = seq(self.comma, self.further)
            again = self.grammar.repeat(more, 0, high, f"{self.name_hint}-further")
            further = seq(self.further, again)
        must = next((i for i, (_, needed) in enumerate(self.entries) if needed), None)
        if must is None:
            nodes = [pair for pair, _ in self.entries] + ([further] if further is not None else [])
            return self._some(nodes) if nodes else None
        parts: list[Node] = [optional(seq(pair, self.comma)) for pair, _ in self.entries[:must]]
        parts.append(self.entries[must][0])
        for pair, needed in self.entries[must + 1 :]:
            part = seq(self.comma, pair)
            parts.append(part if needed else optional(part))
        if further is not None:
            rest = seq(self.comma, further)
            parts.append(rest if self.least else optional(rest))
        return seq(*parts)

    def _some(self, nodes: list[Node]) -> Node:
        """At least one of some members, in order."""
        if len(nodes) == 1:
            return nodes[0]
        half = len(nodes) // 2
        first = self._some(nodes[:half])
        second = self._some(nodes[half:])
        if len(nodes) - half > 1:
            second = self.grammar.add(f"{self.name_hint}-more", second)
        return either(seq(first, optional(seq(self.comma, second))), second)

    def _counted(self) -> Node | None:
        """Members as an automaton: from the last entry to the first, what may follow n optional ones."""
        most = self.most
        cap = max(self.least, 1) if most is None else most
        # What may follow, by whether any member stands before, and by the number of optional ones before.
        follow: dict[tuple[bool, int], Node | None] = {(True, n): self._after_all(n) for n in range(cap + 1)}
        follow[False, 0] = self._first_further()
        for i in range(len(self.entries) - 1, -1, -1):
            pair, needed = self.entries[i]
            here: dict[tuple[bool, int], Node | None] = {}
            for some, n in follow:
                glue = self.comma if some else EMPTY
                up = n if needed else (min(n + 1, cap) if most is None else n + 1)
                rest = follow.get((True, up))
                ways = [None if rest is None else seq(glue, pair, rest)]
                if not needed:
                    ways.append(follow[some, n])
                node = either_or_none(ways)
                big = node is not None and node != EMPTY and i
                here[some, n] = self.grammar.add(f"{self.name_hint}-more", node) if big and node else node
            follow = here
        return follow[False, 0]

    def _after_all(self, n: int) -> Node | None:
        """Further members after n optional ones."""
        missing = self.least - n
        room = None if self.most is None else self.most - n
        if self.further is None or room == 0:
            return EMPTY if missing <= 0 else None
        if missing > 1:  # they could have the same name
            return None
        more = seq(self.comma, self.further)
        return self.grammar.repeat(more, max(missing, 0), room, f"{self.name_hint}-further")

    def _first_further(self) -> Node | None:
        if self.further is None or self.required or self.least > 1:
            return None
        room = None if self.most is None else self.most - 1
        more = seq(self.comma, self.further)
        return seq(self.further, self.grammar.repeat(more, 0, room, f"{self.name_hint}-further"))

    def _group(self) -> None:
        """Keep counts without counting: of each group of neighbours at most, or at least, one is there.

        A lower bound is counted after all where that takes few states.
        """
        optionals = [i for i, (_, needed) in enumerate(self.entries) if not needed]
        kept: dict[int, tuple[Node, bool]] = {}
        most, few = self.most, (len(self.entries) + 1) * (self.least + 1) <= _MAX_STATES
        groups = least_of(most, max(len(optionals), 1)) if most is not None else self.least
        size = -(-len(optionals) // max(groups or 1, 1))
        for g in range(0, len(optionals), size):
            places = optionals[g : g + size]
            pairs = [self.entries[i][0] for i in places]
            one = either(*pairs) if most is not None else self._some(pairs)
            kept[places[0]] = (
                self.grammar.add(f"{self.name_hint}-one", one),
                not few and g // size < self.least,
            )
        self.entries = [kept.get(i, entry) for i, entry in enumerate(self.entries) if entry[1] or i in kept]
        self.grammar.notes.append(
            f"the number of members at {self.pointer or '/'} is kept by fewer combinations"
        )
        if len(kept) < self.least:
            raise SchemaError("minProperties beside maxProperties cannot be expressed", pointer=self.pointer)
        if most is not None and len(kept) >= most:
            self.further = None
        self.most = None
        if most is not None and self.further is not None:
            self.most = most - len(kept)
        self.least = self.least if few else 0
        self.required = sum(needed for _, needed in self.entries)
