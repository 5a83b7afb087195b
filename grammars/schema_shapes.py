"""Schema data model: what one alternative of a schema asks of a value, and the intersection of two.

An `Alternative` has no references or combinations at its top. What stands inside (properties, items) stays a
`Subschema`, a schema with its place, until it is expanded in its turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gemma4_gguf.errors import SchemaError
from gemma4_gguf.grammars.schema_numbers import Bounds

ALL_TYPES = frozenset({"null", "boolean", "number", "string", "array", "object"})
MAX_ALTERNATIVES = 256


@dataclass(frozen=True)
class Subschema:
    """A schema and the JSON pointer to it."""

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
    """

    first: tuple[tuple[Subschema, ...], ...] = ()
    rest: tuple[Subschema, ...] | None = ()
    least: int = 0
    most: int | None = None
    unique: bool = False


@dataclass(frozen=True)
class Members:
    """What an object holds.

    Args:
        declared: property → all schemas its value must satisfy, in declared order.
        required: names that must be there.
        additional: schemas of values under other names; None when there are no others.
        additional_given: the schema itself says what `additional` is.
        names: schemas that every additional name must satisfy (propertyNames).
        patterned: (pattern, its pointer, schema) for additional names that match it.
        least: number of members at least.
        most: number of members at most; None for no limit.
    """

    declared: Mapping[str, tuple[Subschema, ...]] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    additional: tuple[Subschema, ...] | None = ()
    additional_given: bool = False
    names: tuple[Subschema, ...] = ()
    patterned: tuple[tuple[str, str, Subschema], ...] = ()
    least: int = 0
    most: int | None = None

    def schemas_for(self, name: str) -> tuple[Subschema, ...] | None:
        """Schemas of the value under a name, patterns aside; None if the name is not allowed."""
        return self.declared.get(name, self.additional)


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
        bounds: of a number or an integer.
        items: of an array.
        members: of an object.
    """

    pointer: str
    types: frozenset[str] = ALL_TYPES
    values: tuple[Any, ...] | None = None
    least_length: int = 0
    most_length: int | None = None
    patterns: tuple[tuple[str, str], ...] = ()
    bounds: Bounds = field(default_factory=Bounds)
    items: Items = field(default_factory=Items)
    members: Members = field(default_factory=Members)

    def is_anything(self) -> bool:
        """Whether every JSON value is allowed."""
        return replace(self, pointer="") == Alternative("")


def intersect(a: list[Alternative], b: list[Alternative], pointer: str) -> list[Alternative]:
    """Alternatives for the values that satisfy one of `a` and one of `b`: every pair that has any in common.

    Raises:
        SchemaError: there are too many pairs, or one cannot be expressed; `pointer` says where.
    """
    if len(a) * len(b) > MAX_ALTERNATIVES:
        raise SchemaError(f"more than {MAX_ALTERNATIVES} combinations of alternatives", pointer=pointer)
    return [both for first in a for second in b if (both := _intersect_pair(first, second)) is not None]


def _intersect_pair(a: Alternative, b: Alternative) -> Alternative | None:
    """An alternative for the values that satisfy both, None if its types or values leave none."""
    if a.is_anything():
        return b
    if b.is_anything():
        return a
    types = a.types & b.types
    types |= {"integer"} if {"integer", "number"} <= a.types | b.types and _numeric(a, b) else set()
    values = a.values
    if b.values is not None:
        values = (
            b.values
            if values is None
            else tuple(v for v in values if any(json_equal(v, w) for w in b.values))
        )
    members = _intersect_members(a.members, b.members)
    if members is None:
        types -= {"object"}
        members = Members()
    if not types or values == ():
        return None
    return Alternative(
        a.pointer if len(a.pointer) > len(b.pointer) else b.pointer,
        frozenset(types),
        values,
        max(a.least_length, b.least_length),
        _least(a.most_length, b.most_length),
        tuple(dict.fromkeys(a.patterns + b.patterns)),
        a.bounds.intersect(b.bounds),
        _intersect_items(a.items, b.items),
        members,
    )


def deduplicated(subschemas: Iterable[Subschema]) -> tuple[Subschema, ...]:
    """Schemas without duplicates, told apart by their place."""
    return tuple({subschema.pointer: subschema for subschema in subschemas}.values())


def _numeric(a: Alternative, b: Alternative) -> bool:
    return all(alternative.types & {"integer", "number"} for alternative in (a, b))


def _least(a: int | None, b: int | None) -> int | None:
    """The lower of two upper limits."""
    return b if a is None else a if b is None else min(a, b)


def _intersect_items(a: Items, b: Items) -> Items:
    first = []
    most = _least(a.most, b.most)
    for place in range(max(len(a.first), len(b.first))):
        there = [x.first[place] if place < len(x.first) else x.rest for x in (a, b)]
        if None in there:
            most = _least(most, place)
            break
        first.append(tuple(subschema for subschemas in there for subschema in subschemas or ()))
    rest = None if a.rest is None or b.rest is None else a.rest + b.rest
    return Items(tuple(first), rest, max(a.least, b.least), most, a.unique or b.unique)


def _intersect_members(a: Members, b: Members) -> Members | None:
    """The members that both allow, None if one requires what the other forbids."""
    if a == Members() or b == Members():
        return b if a == Members() else a
    if a.patterned or b.patterned:
        raise SchemaError(
            "patternProperties cannot be combined with other schemas of the same object",
            pointer=(a.patterned or b.patterned)[0][1],
        )
    declared = {}
    for name in (*a.declared, *b.declared):
        first, second = a.schemas_for(name), b.schemas_for(name)
        if first is not None and second is not None:
            declared[name] = deduplicated(first + second)
    required = tuple(dict.fromkeys(a.required + b.required))
    if any(a.schemas_for(name) is None or b.schemas_for(name) is None for name in required):
        return None
    return Members(
        declared,
        required,
        None if a.additional is None or b.additional is None else a.additional + b.additional,
        a.additional_given or b.additional_given,
        a.names + b.names,
        a.patterned + b.patterned,
        max(a.least, b.least),
        _least(a.most, b.most),
    )


def json_equal(a: Any, b: Any) -> bool:
    """JSON equality: 1 is 1.0 and not true."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(json_equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(json_equal(a[k], b[k]) for k in a)
    return bool(a == b)
