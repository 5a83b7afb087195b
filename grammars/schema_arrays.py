"""Array compiler: elements by place, any number of further ones, sets of listed values, and "contains"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from gemma4_gguf.errors import SchemaError
from gemma4_gguf.grammars.grammar import (
    EMPTY,
    NOTHING,
    Grammar,
    Node,
    Ref,
    Text,
    either,
    either_or_none,
    optional,
    seq,
)
from gemma4_gguf.grammars.notation import Notation, literal
from gemma4_gguf.grammars.schema_alternatives import Expander
from gemma4_gguf.grammars.schema_difference import NEGATED
from gemma4_gguf.grammars.schema_shapes import Alternative, Items, Subschema

_MAX_UNIQUE = 8  # above, listed values stand in the order of their list
_MAX_STATES = 400


class Compiler(Protocol):
    """What compiles the elements: `schema_compiler.Compiler`."""

    expander: Expander
    grammar: Grammar
    notation: Notation

    def compile(self, subschemas: tuple[Subschema, ...], name_hint: str) -> Node:
        """The values that every one of these schemas allows."""


def write_array(compiler: Compiler, items: Items, pointer: str, name_hint: str) -> Node | None:
    """An array, brackets included.

    Args:
        compiler: of the schema, for the elements.
        items: what the schema says of them.
        pointer: where the schema stands, for messages.
        name_hint: what rules may be called.

    Returns:
        The node, None if nothing can satisfy the limits.

    Raises:
        SchemaError: the limits cannot be expressed.
    """
    if items == Items():
        return Ref("array")
    if items.unique and (items.most is None or items.most > 1):
        return _set(compiler, items, pointer, name_hint)
    if items.contains:
        return _containing(compiler, items, pointer, name_hint)
    first = [compiler.compile(subschemas, f"{name_hint}-{i + 1}") for i, subschemas in enumerate(items.first)]
    rest = NOTHING if items.rest is None else compiler.compile(items.rest, f"{name_hint}-item")
    reach = next((i for i, node in enumerate(first) if node == NOTHING), None)
    most = items.most
    if reach is not None or rest == NOTHING:
        limit = len(first) if reach is None else reach
        most = limit if most is None else min(most, limit)
    if most is not None and most < items.least:
        return None
    elements = _elements(compiler, first[:most], rest, items.least, most)
    return _bracketed(compiler, None if most == 0 else elements, empty=items.least == 0)


def _bracketed(compiler: Compiler, elements: Node | None, *, empty: bool) -> Node | None:
    """Elements in brackets, or none if the array may be empty."""
    space = compiler.notation.space
    ways: list[Node] = [seq(Text("["), space, Text("]"))] if empty else []
    if elements is not None:
        ways.append(seq(Text("["), space, elements, space, Text("]")))
    return either(*ways) if ways else None


def _elements(compiler: Compiler, first: list[Node], rest: Node, least: int, most: int | None) -> Node:
    """At least one element."""
    grammar, comma = compiler.grammar, seq(Text(","), compiler.notation.space)
    fixed = len(first)
    low, high = max(least - fixed, 0), None if most is None else most - fixed
    if not fixed:
        more = grammar.repeat(seq(comma, rest), max(low - 1, 0), None if high is None else high - 1, "more")
        return seq(rest, more)
    tail: Node = EMPTY
    if rest != NOTHING and high != 0:
        tail = grammar.repeat(seq(comma, rest), low, high, "more")
    for i in range(fixed - 1, 0, -1):
        tail = seq(comma, first[i], tail)
        if i >= least:
            tail = optional(tail)
            tail = grammar.add("more", tail) if i % 4 == 0 else tail
    return seq(first[0], tail)


def _set(compiler: Compiler, items: Items, pointer: str, name_hint: str) -> Node | None:
    """An array of different listed values: few in any order, many in the order of their list."""
    values: list[Any] = []
    if not items.first and items.rest and not items.contains:
        for alternative in compiler.expander.conjunction(items.rest):
            found = _listed(compiler, alternative)
            if found is None:
                values = []
                break
            values += found
    if not values:
        raise SchemaError(
            "uniqueItems is kept only for listed values (enum); use a list, not a set",
            pointer=f"{pointer}/uniqueItems",
        )
    texts = [literal(compiler.notation, value, pointer) for value in values]
    most = len(texts) if items.most is None else min(items.most, len(texts))
    if most < items.least:
        return None
    write = _any_order if len(texts) <= _MAX_UNIQUE else _listed_order
    elements = write(compiler, texts, items.least, most, name_hint) if most else None
    return _bracketed(compiler, elements, empty=items.least == 0)


def _listed(compiler: Compiler, alternative: Alternative) -> list[Any] | None:
    """All values of an alternative, None if they are not listed."""
    satisfies = compiler.expander.difference.satisfies
    if alternative.values is not None:
        return [value for value in alternative.values if satisfies(alternative, value)]
    if alternative.types <= {"boolean", "null"}:
        return [value for value in (True, False, None) if satisfies(alternative, value)]
    return None


def _any_order(compiler: Compiler, texts: list[Node], least: int, most: int, name_hint: str) -> Node:
    """A rule for each set of values used so far."""
    comma = seq(Text(","), compiler.notation.space)
    rules: dict[frozenset[int], Node] = {}

    def after(used: frozenset[int]) -> Node:
        if used not in rules:
            left = [i for i in range(len(texts)) if i not in used] if len(used) < most else []
            glue = comma if used else EMPTY
            ways: list[Node] = [seq(glue, texts[i], after(used | {i})) for i in left]
            if len(used) >= max(least, 1):
                ways.append(EMPTY)
            rules[used] = (
                EMPTY if ways == [EMPTY] else compiler.grammar.add(f"{name_hint}-set", either(*ways))
            )
        return rules[used]

    return after(frozenset())


def _listed_order(compiler: Compiler, texts: list[Node], least: int, most: int, name_hint: str) -> Node:
    """Each value at most once, in the order of the list."""
    grammar, comma = compiler.grammar, seq(Text(","), compiler.notation.space)
    most = min(most, len(texts))
    cap = most if most < len(texts) else max(least, 1)
    if len(texts) * cap > _MAX_STATES * 4:
        # Of each group of neighbours at most one.
        size = -(-len(texts) // most) if most < len(texts) else 1
        texts = [either(*texts[i : i + size]) for i in range(0, len(texts), size)]
        most = cap = max(least, 1)
        grammar.notes.append("a set of many listed values is kept by fewer combinations")
        if len(texts) * cap > _MAX_STATES * 4:
            raise SchemaError("minItems beside uniqueItems is too large for a grammar")
        most = len(texts)
    counted = most < len(texts)
    follow: list[Node | None] = [EMPTY if n >= least and n else None for n in range(cap + 1)]
    for i in range(len(texts) - 1, -1, -1):
        here: list[Node | None] = []
        for n in range(cap + 1):
            up = n + 1 if counted else min(n + 1, cap)
            rest = follow[up] if up <= cap else None
            ways = [None if rest is None else seq(comma if n else EMPTY, texts[i], rest)]
            if follow[n] is not None and not (n == 0 and follow[n] == EMPTY):
                ways.append(follow[n])
            node = either_or_none(ways)
            here.append(grammar.add(f"{name_hint}-set", node) if node is not None and node != EMPTY else node)
        follow = here
    return follow[0] or NOTHING


def _containing(compiler: Compiler, items: Items, pointer: str, name_hint: str) -> Node | None:
    """An array in which some elements, but not too many, satisfy one more schema.

    An automaton of (elements so far, of which so many satisfy it), from the last state to the first.
    """
    if len(items.contains) > 1:
        raise SchemaError("several contains cannot be expressed together", pointer=f"{pointer}/contains")
    schema, few, many = items.contains[0]
    if many is not None and many < few:
        return None
    places = items.most if items.most is not None else max(len(items.first), items.least, 1)
    counts = few if many is None else many
    if (places + 1) * (counts + 1) > _MAX_STATES:
        raise SchemaError(
            "contains beside long bounds is too large for a grammar", pointer=f"{pointer}/contains"
        )
    other = Subschema({"not": schema.schema}, schema.pointer + NEGATED)
    grammar, comma = compiler.grammar, seq(Text(","), compiler.notation.space)

    def element(place: int, more: Sequence[Subschema]) -> Node:
        subschemas = items.schemas_at(place)
        if subschemas is None:
            return NOTHING
        return compiler.compile((*subschemas, *more), f"{name_hint}-item")

    states = [(p, n) for p in range(places, -1, -1) for n in range(counts, -1, -1)]
    # A place of no bound is entered again and again, so its rules are named first.
    names = {state: grammar.name_for(f"{name_hint}-items") for state in states}
    for place, n in states:
        glue = comma if place else EMPTY
        last = place == places
        ways: list[Node] = [EMPTY] if place >= items.least and n >= few and place else []
        if not (last and items.most is not None):
            there = place if last else place + 1
            ways.append(seq(glue, element(place, () if many is None else (other,)), Ref(names[there, n])))
            if n < counts:
                ways.append(seq(glue, element(place, (schema,)), Ref(names[there, n + 1])))
        grammar.rules[names[place, n]] = either(*ways) if ways else NOTHING
    empty = items.least == 0 and few == 0
    return _bracketed(compiler, Ref(names[0, 0]), empty=empty)
