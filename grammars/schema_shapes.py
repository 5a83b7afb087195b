"""Schema data model: what one alternative of a schema asks of a value, and the intersection of two.

An `Alternative` has no references or combinations at its top. What stands inside (properties, items) stays a
`Subschema`, a schema with its place, until it is expanded in its turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from gemma4_gguf.errors import SchemaError
from gemma4_gguf.grammars.lengths import least_of
from gemma4_gguf.grammars.schema_numbers import Bounds

ALL_TYPES = frozenset({"null", "boolean", "number", "string", "array", "object"})
MAX_ALTERNATIVES = 256


@dataclass(frozen=True)
class Subschema:
    """A schema and the JSON pointer to it. Two of one pointer are the same schema."""

    schema: Any
    pointer: str


@dataclass(frozen=True)
class Items:
    """What an array holds.

    Args:
        first: for each of the first elements, all schemas it must satisfy (prefixItems).
        rest: schemas that every later element must satisfy; None when there are no later ones.
        least: number of elements at least.
        most: number of elements at most; None for no limit.
        unique: all elements differ.
        contains: (schema, how many elements at least satisfy it, how many at most; None for no limit).
        negated: some of `first` stand under a "not", which does not count for unevaluatedItems.
    """

    first: tuple[tuple[Subschema, ...], ...] = ()
    rest: tuple[Subschema, ...] | None = ()
    least: int = 0
    most: int | None = None
    unique: bool = False
    contains: tuple[tuple[Subschema, int, int | None], ...] = ()
    negated: bool = False

    def schemas_at(self, place: int) -> tuple[Subschema, ...] | None:
        """Schemas of the element at a place from 0 on; None if there can be none."""
        return self.first[place] if place < len(self.first) else self.rest


@dataclass(frozen=True)
class Layer:
    """What one schema says of the members of an object; all layers of an object hold at once.

    Args:
        declared: property → schema of its value, in declared order.
        patterned: (pattern, its pointer, schema) of values under names that match it.
        additional: schema of values under other names; None when there are no others.
        additional_given: the schema itself says what `additional` is.
        evaluates: for unevaluatedProperties, the names that it speaks of are looked after; under a "not" they
            are not.
    """

    declared: Mapping[str, Subschema] = field(default_factory=dict)
    patterned: tuple[tuple[str, str, Subschema], ...] = ()
    additional: Subschema | None = Subschema(True, "")
    additional_given: bool = False
    evaluates: bool = True


@dataclass(frozen=True)
class Members:
    """What an object holds.

    Args:
        layers: what schemas say of its members.
        required: names that must be there.
        forbidden: names that must not.
        names: schemas that every name must satisfy (propertyNames).
        least: number of members at least.
        most: number of members at most; None for no limit.
    """

    layers: tuple[Layer, ...] = ()
    required: tuple[str, ...] = ()
    forbidden: frozenset[str] = frozenset()
    names: tuple[Subschema, ...] = ()
    least: int = 0
    most: int | None = None

    def declared(self) -> list[str]:
        """Names that a schema declares, in declared order."""
        return list(dict.fromkeys(name for layer in self.layers for name in layer.declared))


@dataclass(frozen=True)
class Alternative:
    """One alternative of a schema: values of any of `types`, each within the limits for its type.

    Args:
        pointer: where the schema stands, for messages.
        types: JSON types; "integer" only where "number" is not.
        values: the only values allowed (enum, const); None for all.
        least_length: characters of a string at least.
        most_length: characters of a string at most; None for no limit.
        patterns: (regular expression, its pointer) that a string must match, all of them.
        other_patterns: the same, which it must not match.
        other_texts: strings that it must not be.
        bounds: of a number or an integer.
        steps: a number is a multiple of all of them.
        items: of an array.
        members: of an object.
    """

    pointer: str
    types: frozenset[str] = ALL_TYPES
    values: tuple[Any, ...] | None = None
    least_length: int = 0
    most_length: int | None = None
    patterns: tuple[tuple[str, str], ...] = ()
    other_patterns: tuple[tuple[str, str], ...] = ()
    other_texts: tuple[str, ...] = ()
    bounds: Bounds = field(default_factory=Bounds)
    steps: tuple[Decimal, ...] = ()
    items: Items = field(default_factory=Items)
    members: Members = field(default_factory=Members)

    def is_anything(self) -> bool:
        """Whether every JSON value is allowed."""
        return (
            self.values is None
            and self.types == ALL_TYPES
            and self.is_free_text()
            and self.bounds == Bounds()
            and not self.steps
            and self.items == Items()
            and self.members == Members()
        )

    def is_free_text(self) -> bool:
        """Whether nothing is asked of a string."""
        conditions = self.patterns or self.other_patterns or self.other_texts
        return not conditions and not self.least_length and self.most_length is None


def intersect(a: list[Alternative], b: list[Alternative], pointer: str) -> list[Alternative]:
    """Alternatives for the values that satisfy one of `a` and one of `b`: every pair that has any in common.

    Raises:
        SchemaError: there are too many pairs; `pointer` says where.
    """
    if a is b:
        return a
    if len(a) * len(b) > MAX_ALTERNATIVES:
        raise SchemaError(f"more than {MAX_ALTERNATIVES} combinations of alternatives", pointer=pointer)
    return distinct(
        both for first in a for second in b if (both := _intersect_pair(first, second)) is not None
    )


def distinct(alternatives: Iterable[Alternative]) -> list[Alternative]:
    """Alternatives without those that are the very same object."""
    return list({id(alternative): alternative for alternative in alternatives}.values())


def _intersect_pair(a: Alternative, b: Alternative) -> Alternative | None:
    """An alternative for the values that satisfy both, None if its types or values leave none."""
    if a is b or b.is_anything():
        return a
    if a.is_anything():
        return b
    types = a.types & b.types
    types |= {"integer"} if {"integer", "number"} <= a.types | b.types and _numeric(a, b) else set()
    values = a.values
    if b.values is not None:
        values = b.values if values is None else shared_values(values, b.values)
    if not types or values == ():
        return None
    return Alternative(
        a.pointer if len(a.pointer) > len(b.pointer) else b.pointer,
        frozenset(types),
        values,
        max(a.least_length, b.least_length),
        least_of(a.most_length, b.most_length),
        tuple(dict.fromkeys(a.patterns + b.patterns)),
        tuple(dict.fromkeys(a.other_patterns + b.other_patterns)),
        tuple(dict.fromkeys(a.other_texts + b.other_texts)),
        a.bounds.intersect(b.bounds),
        tuple(dict.fromkeys(a.steps + b.steps)),
        _intersect_items(a.items, b.items),
        _intersect_members(a.members, b.members),
    )


def deduplicated(subschemas: Iterable[Subschema]) -> tuple[Subschema, ...]:
    """Schemas without duplicates, told apart by their place."""
    return tuple({subschema.pointer: subschema for subschema in subschemas}.values())


def _numeric(a: Alternative, b: Alternative) -> bool:
    return all(alternative.types & {"integer", "number"} for alternative in (a, b))


def _intersect_items(a: Items, b: Items) -> Items:
    if a == Items() or b == Items():
        return b if a == Items() else a
    first = []
    most = least_of(a.most, b.most)
    for place in range(max(len(a.first), len(b.first))):
        there = [x.schemas_at(place) for x in (a, b)]
        if None in there:
            most = least_of(most, place)
            break
        first.append(deduplicated(subschema for subschemas in there for subschema in subschemas or ()))
    rest = None if a.rest is None or b.rest is None else deduplicated(a.rest + b.rest)
    contains = {
        (one.pointer, least, high): (one, least, high) for one, least, high in a.contains + b.contains
    }
    return Items(
        tuple(first),
        rest,
        max(a.least, b.least),
        most,
        a.unique or b.unique,
        tuple(contains.values()),
        a.negated or b.negated,
    )


def _intersect_members(a: Members, b: Members) -> Members:
    if a == Members() or b == Members():
        return b if a == Members() else a
    layers = {id(layer): layer for layer in a.layers + b.layers}
    return Members(
        tuple(layers.values()),
        tuple(dict.fromkeys(a.required + b.required)),
        a.forbidden | b.forbidden,
        deduplicated(a.names + b.names),
        max(a.least, b.least),
        least_of(a.most, b.most),
    )


def json_key(value: Any) -> Any:
    """What two values have in common if they are equal in JSON: 1 is 1.0 and not true."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        return (type(value), value)
    if isinstance(value, list):
        return (list, tuple(map(json_key, value)))
    if isinstance(value, Mapping):
        return (dict, frozenset((name, json_key(inner)) for name, inner in value.items()))
    return value


def json_equal(a: Any, b: Any) -> bool:
    """JSON equality: 1 is 1.0 and not true."""
    return bool(json_key(a) == json_key(b))


def shared_values(a: Iterable[Any], b: Iterable[Any]) -> tuple[Any, ...]:
    """Values of `a` that are in `b` too, by JSON equality."""
    keys = set(map(json_key, b))
    return tuple(value for value in a if json_key(value) in keys)
