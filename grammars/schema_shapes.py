"""What a schema says about a value, in a form that can be compared and intersected.

A `Flat` is one alternative without references or combinations at its top. What stands inside (properties,
items) stays a `Sub`, a schema with its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gemma4_gguf.errors import SchemaError
from gemma4_gguf.grammars.schema_numbers import Bounds

ALL_TYPES = frozenset({"null", "boolean", "number", "string", "array", "object"})
MAX_FLATS = 256


@dataclass(frozen=True)
class Sub:
    """A schema and the JSON pointer to it."""

    schema: Any
    pointer: str


@dataclass(frozen=True)
class Items:
    """What an array holds: schemas by place, then the same for all further ones (None: no further ones)."""

    first: tuple[tuple[Sub, ...], ...] = ()
    rest: tuple[Sub, ...] | None = ()
    least: int = 0
    most: int | None = None
    unique: bool = False


@dataclass(frozen=True)
class Members:
    """What an object holds.

    Args:
        declared: property → all schemas its value must satisfy, in declared order.
        further: schemas of values under other names; None when there are no others.
        stated: the schema itself says what `further` is.
        names: schemas that every further name must satisfy.
        patterned: (pattern, its pointer, schema) for further names that match it.
    """

    declared: Mapping[str, tuple[Sub, ...]] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    further: tuple[Sub, ...] | None = ()
    stated: bool = False
    names: tuple[Sub, ...] = ()
    patterned: tuple[tuple[str, str, Sub], ...] = ()
    least: int = 0
    most: int | None = None

    def under(self, name: str) -> tuple[Sub, ...] | None:
        """Returns: schemas of the value under a name, None if the name is not allowed."""
        return self.declared.get(name, self.further)


@dataclass(frozen=True)
class Flat:
    """One alternative: a value of one of `types` (one of `values`, if given) within its type's limits."""

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
        return replace(self, pointer="") == Flat("")


def meet(a: list[Flat], b: list[Flat], pointer: str) -> list[Flat]:
    """Values in one of `a` and in one of `b`."""
    if len(a) * len(b) > MAX_FLATS:
        raise SchemaError(f"more than {MAX_FLATS} combinations of alternatives", pointer=pointer)
    return [both for first in a for second in b if (both := _both(first, second)) is not None]


def _both(a: Flat, b: Flat) -> Flat | None:
    if a.is_anything():
        return b
    if b.is_anything():
        return a
    types = a.types & b.types
    types |= {"integer"} if {"integer", "number"} <= a.types | b.types and _numeric(a, b) else set()
    values = a.values
    if b.values is not None:
        values = b.values if values is None else tuple(v for v in values if any(same(v, w) for w in b.values))
    members = _both_members(a.members, b.members)
    if members is None:
        types -= {"object"}
        members = Members()
    if not types or values == ():
        return None
    return Flat(
        a.pointer if len(a.pointer) > len(b.pointer) else b.pointer,
        frozenset(types),
        values,
        max(a.least_length, b.least_length),
        _least(a.most_length, b.most_length),
        tuple(dict.fromkeys(a.patterns + b.patterns)),
        a.bounds.meet(b.bounds),
        _both_items(a.items, b.items),
        members,
    )


def once(subs: Iterable[Sub]) -> tuple[Sub, ...]:
    """Schemas without doubles, told apart by their place."""
    return tuple({sub.pointer: sub for sub in subs}.values())


def _numeric(a: Flat, b: Flat) -> bool:
    return all(flat.types & {"integer", "number"} for flat in (a, b))


def _least(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)


def _both_items(a: Items, b: Items) -> Items:
    first = []
    most = _least(a.most, b.most)
    for place in range(max(len(a.first), len(b.first))):
        there = [x.first[place] if place < len(x.first) else x.rest for x in (a, b)]
        if None in there:
            most = _least(most, place)
            break
        first.append(tuple(sub for subs in there for sub in subs or ()))
    rest = None if a.rest is None or b.rest is None else a.rest + b.rest
    return Items(tuple(first), rest, max(a.least, b.least), most, a.unique or b.unique)


def _both_members(a: Members, b: Members) -> Members | None:
    if a == Members() or b == Members():
        return b if a == Members() else a
    if a.patterned or b.patterned:
        raise SchemaError(
            "patternProperties cannot be combined with other schemas of the same object",
            pointer=(a.patterned or b.patterned)[0][1],
        )
    declared = {}
    for name in (*a.declared, *b.declared):
        first, second = a.under(name), b.under(name)
        if first is not None and second is not None:
            declared[name] = once(first + second)
    required = tuple(dict.fromkeys(a.required + b.required))
    if any(a.under(name) is None or b.under(name) is None for name in required):
        return None
    return Members(
        declared,
        required,
        None if a.further is None or b.further is None else a.further + b.further,
        a.stated or b.stated,
        a.names + b.names,
        a.patterned + b.patterned,
        max(a.least, b.least),
        _least(a.most, b.most),
    )


def same(a: Any, b: Any) -> bool:
    """JSON equality: 1 is 1.0 and not true."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return bool(a == b)
