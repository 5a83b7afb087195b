"""Differences of alternatives: the values of one that do not satisfy another, for "not", "oneOf" and "if".

A grammar has no "not", so each limit of the other alternative is turned around by itself: what is no string
of at most 3 characters is something else than a string, or a string of at least 4. What cannot be turned
around is left out, so that the result may be too narrow, never too wide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, Protocol

from gemma4_gguf.errors import SchemaError
from gemma4_gguf.grammars.lengths import least_of
from gemma4_gguf.grammars.regex import matches, parse_pattern
from gemma4_gguf.grammars.schema_numbers import Bounds
from gemma4_gguf.grammars.schema_shapes import (
    MAX_ALTERNATIVES,
    Alternative,
    Items,
    Layer,
    Members,
    Subschema,
    deduplicated,
    json_key,
)

# Follows the pointer of a schema that is turned around.
NEGATED = "/~not"
_MAX_DEPTH = 8
_Alternatives = list[Alternative]


class Expander(Protocol):
    """What expands schemas: `schema_alternatives.Expander`."""

    def conjunction(self, subschemas: Sequence[Subschema], *, over: bool = False) -> _Alternatives:
        """What satisfies all of some schemas."""


def value_schemas(members: Members, name: str) -> tuple[Subschema, ...] | None:
    """All schemas of the value under a name; None if it is not allowed."""
    if name in members.forbidden:
        return None
    found: list[Subschema] = []
    for layer in members.layers:
        spoken = [schema for text, at, schema in layer.patterned if matches(name, parse_pattern(text, at))]
        if name in layer.declared:
            spoken.append(layer.declared[name])
        if not spoken:
            if layer.additional is None:
                return None
            spoken = [layer.additional]
        found += spoken
    return deduplicated(schema for schema in found if schema.schema is not True)


class Difference:
    """Subtracts alternatives.

    Args:
        expander: of the document.
    """

    def __init__(self, expander: Expander) -> None:
        self._expand = expander.conjunction
        self._depth = 0

    def without(self, some: _Alternatives, others: _Alternatives, pointer: str) -> _Alternatives:
        """Values that satisfy one of `some` and none of `others`; not all of them, where that is hard to say.

        Args:
            some: alternatives.
            others: alternatives, taken as wide as may be.
            pointer: where this is asked for.

        Raises:
            SchemaError: it takes too many alternatives.
        """
        for other in others:
            left = []
            for one in some:
                left += [one] if self.disjoint(one, other) else list(self._pieces(one, other))
                if len(left) > MAX_ALTERNATIVES:
                    raise SchemaError(f"more than {MAX_ALTERNATIVES} combinations", pointer=pointer)
            some = left
        return some

    def satisfies(self, alternative: Alternative, value: Any, *, over: bool = False) -> bool:
        """Whether a value satisfies an alternative; `over` if that is taken as wide as may be."""
        if alternative.values is not None:
            key = json_key(value)
            if all(json_key(other) != key for other in alternative.values):
                return False
        if value is None or isinstance(value, bool):
            return ("null" if value is None else "boolean") in alternative.types
        if isinstance(value, (int, float)):
            return _is_number_of(alternative, value)
        if isinstance(value, str):
            return "string" in alternative.types and _is_text_of(alternative, value)
        if isinstance(value, list):
            return "array" in alternative.types and self._is_array_of(alternative.items, value, over)
        return "object" in alternative.types and self._is_object_of(alternative.members, value, over)

    def allows(self, subschemas: Sequence[Subschema], value: Any, *, over: bool = False) -> bool:
        """Whether a value satisfies all of some schemas."""
        if not subschemas:
            return True
        return any(self.satisfies(a, value, over=over) for a in self._expand(subschemas, over=over))

    def _is_array_of(self, items: Items, value: list[Any], over: bool) -> bool:
        if len(value) < items.least or (items.most is not None and len(value) > items.most):
            return False
        if items.unique and len({repr(json_key(element)) for element in value}) < len(value):
            return False
        for schema, least, most in items.contains:
            n = sum(self.allows((schema,), element, over=over) for element in value)
            if n < least or (most is not None and n > most):
                return False
        for place, element in enumerate(value):
            subschemas = items.schemas_at(place)
            if subschemas is None or not self.allows(subschemas, element, over=over):
                return False
        return True

    def _is_object_of(self, members: Members, value: dict[str, Any], over: bool) -> bool:
        if len(value) < members.least or (members.most is not None and len(value) > members.most):
            return False
        if any(name not in value for name in members.required):
            return False
        for name, inner in value.items():
            subschemas = value_schemas(members, name)
            if subschemas is None or not self.allows(subschemas, inner, over=over):
                return False
            if not self.allows(members.names, name, over=over):
                return False
        return True

    def disjoint(self, a: Alternative, b: Alternative) -> bool:
        """Whether no value satisfies both; False also when that is not plain to see.

        They are told apart by type, by bounds on lengths and numbers, by what the other may not have, or by a
        required member or element whose schemas exclude each other.

        Args:
            a: an alternative.
            b: another, taken as wide as may be.
        """
        if a.values is not None and b.values is not None:
            keys = set(map(json_key, b.values))
            return not any(json_key(value) in keys for value in a.values)
        if a.values is not None:
            return not any(self.satisfies(b, value, over=True) for value in a.values)
        if b.values is not None:
            return not any(self.satisfies(a, value) for value in b.values)
        return all(self._tells_apart(kind, a, b) for kind in _shared_types(a, b))

    def _tells_apart(self, kind: str, a: Alternative, b: Alternative) -> bool:
        both = ((a, b), (b, a))
        if kind == "string":
            return any(x.most_length is not None and x.most_length < y.least_length for x, y in both) or any(
                {text for text, _ in x.patterns} & {text for text, _ in y.other_patterns} for x, y in both
            )
        if kind in ("number", "integer"):
            return a.bounds.intersect(b.bounds).is_empty()
        if kind == "array":
            return self._different_arrays(a.items, b.items)
        return kind == "object" and self._different_objects(a.members, b.members)

    def _different_arrays(self, a: Items, b: Items) -> bool:
        if any(x.most is not None and x.most < y.least for x, y in ((a, b), (b, a))):
            return True
        for place in range(min(a.least, b.least, _MAX_DEPTH)):
            first, second = a.schemas_at(place), b.schemas_at(place)
            if first is None or second is None or self._exclude(first, second):
                return True
        return False

    def _different_objects(self, a: Members, b: Members) -> bool:
        for x, y in ((a, b), (b, a)):
            if x.most is not None and x.most < max(y.least, len(y.required)):
                return True
            if any(value_schemas(y, name) is None for name in x.required):
                return True
        return any(
            self._exclude(value_schemas(a, name) or (), value_schemas(b, name) or ())
            for name in a.required
            if name in b.required
        )

    def _exclude(self, a: tuple[Subschema, ...], b: tuple[Subschema, ...]) -> bool:
        """Whether schemas exclude each other, those of b taken as wide as may be; False beyond some depth."""
        if not a or not b or self._depth >= _MAX_DEPTH:
            return False
        self._depth += 1
        try:
            first, second = self._expand(a), self._expand(b, over=True)
            return all(self.disjoint(x, y) for x in first for y in second)
        finally:
            self._depth -= 1

    def _pieces(self, a: Alternative, b: Alternative) -> Iterator[Alternative]:
        """The values of `a` that are none of `b`'s, limit by limit."""
        if a.values is not None:
            left = tuple(value for value in a.values if not self.satisfies(b, value, over=True))
            if left:
                yield replace(a, values=left)
            return
        shared = _shared_types(a, b)
        if rest := a.types - shared - {"number", "integer"} | (
            set() if _numbers(shared) else _numbers(a.types)
        ):
            yield replace(a, types=frozenset(rest))
        if b.values is not None:
            yield from self._without_values(a, shared, tuple(v for v in b.values if self.satisfies(a, v)))
            return
        for kind in sorted(shared):
            one = replace(
                a, types=frozenset({kind}) if kind not in ("number", "integer") else _numbers(a.types)
            )
            if kind == "string":
                yield from _other_texts(one, b)
            elif kind in ("number", "integer"):
                yield from _other_numbers(one, b)
            elif kind == "array":
                yield from _other_arrays(one, b.items)
            elif kind == "object":
                yield from _other_objects(one, b.members)

    def _without_values(
        self, a: Alternative, kinds: frozenset[str], values: tuple[Any, ...]
    ) -> Iterator[Alternative]:
        """The values of `a` of some types without the listed ones, all of which satisfy `a`."""
        for kind in sorted(kinds):
            one = replace(a, types=frozenset({kind}))
            if kind == "null":
                if None not in values:
                    yield one
            elif kind == "boolean":
                if left := tuple(v for v in (True, False) if not any(v is other for other in values)):
                    yield replace(one, values=left)
            elif kind == "string":
                texts = tuple(value for value in values if isinstance(value, str))
                yield replace(one, other_texts=tuple(dict.fromkeys(a.other_texts + texts)))
            elif kind in ("number", "integer"):
                one = replace(a, types=_numbers(a.types))
                yield from _between(one, [v for v in values if _is_number(v)])
            else:
                sizes = [
                    len(value) for value in values if isinstance(value, list if kind == "array" else dict)
                ]
                yield from _other_sizes(one, kind, sizes)


def _shared_types(a: Alternative, b: Alternative) -> frozenset[str]:
    """Types of `a` whose values may be of `b`'s types too; whole numbers are numbers."""
    shared = a.types & b.types
    if _numbers(a.types) and _numbers(b.types):
        shared |= _numbers(a.types)
    return frozenset(shared)


def _numbers(types: frozenset[str]) -> frozenset[str]:
    return types & {"number", "integer"}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_number_of(alternative: Alternative, value: float) -> bool:
    whole = isinstance(value, int) or value.is_integer()
    if not ({"number", "integer"} if whole else {"number"}) & alternative.types:
        return False
    try:
        number = Decimal(repr(value))
    except ValueError:  # Python writes no integer of more than 4300 digits
        return False
    return alternative.bounds.contains(number) and all(
        _is_multiple(number, step) for step in alternative.steps
    )


def _is_multiple(number: Decimal, step: Decimal) -> bool:
    a, b = number.as_integer_ratio(), step.as_integer_ratio()
    return (a[0] * b[1]) % (a[1] * b[0]) == 0


def _is_text_of(alternative: Alternative, value: str) -> bool:
    if len(value) < alternative.least_length or value in alternative.other_texts:
        return False
    if alternative.most_length is not None and len(value) > alternative.most_length:
        return False
    return all(matches(value, parse_pattern(*pattern)) for pattern in alternative.patterns) and not any(
        matches(value, parse_pattern(*pattern)) for pattern in alternative.other_patterns
    )


def _other_texts(a: Alternative, b: Alternative) -> Iterator[Alternative]:
    if b.least_length and (a.most_length is None or a.most_length >= a.least_length):
        yield replace(a, most_length=least_of(a.most_length, b.least_length - 1))
    if b.most_length is not None:
        yield replace(a, least_length=max(a.least_length, b.most_length + 1))
    for pattern in b.patterns:
        yield replace(a, other_patterns=(*a.other_patterns, pattern))
    for pattern in b.other_patterns:
        yield replace(a, patterns=(*a.patterns, pattern))


def _other_numbers(a: Alternative, b: Alternative) -> Iterator[Alternative]:
    low, high = b.bounds.low, b.bounds.high
    if low is not None:
        yield replace(a, bounds=a.bounds.intersect(Bounds(high=low, open_high=not b.bounds.open_low)))
    if high is not None:
        yield replace(a, bounds=a.bounds.intersect(Bounds(low=high, open_low=not b.bounds.open_high)))


def _between(a: Alternative, values: list[float]) -> Iterator[Alternative]:
    """Numbers below, between and above some."""
    points = sorted({Decimal(repr(value)) for value in values})
    if len(points) > MAX_ALTERNATIVES:
        points = points[:MAX_ALTERNATIVES]
        a = replace(a, bounds=a.bounds.intersect(Bounds(high=points[-1], open_high=True)))
    for low, high in zip([None, *points], [*points, None], strict=True):
        bounds = a.bounds.intersect(Bounds(low, high, low is not None, high is not None))
        if not bounds.is_empty():
            yield replace(a, bounds=bounds)


def _other_sizes(a: Alternative, kind: str, sizes: list[int]) -> Iterator[Alternative]:
    """Arrays or objects that are larger or smaller than some."""
    if not sizes:
        yield a
        return
    limits = a.items if kind == "array" else a.members
    wider = replace(limits, least=max(limits.least, max(sizes) + 1))
    yield replace(a, items=wider) if isinstance(wider, Items) else replace(a, members=wider)
    if min(sizes):
        smaller = replace(limits, most=least_of(limits.most, min(sizes) - 1))
        yield replace(a, items=smaller) if isinstance(smaller, Items) else replace(a, members=smaller)


def _negated(subschemas: Sequence[Subschema]) -> Iterator[Subschema]:
    """Each schema turned around."""
    for subschema in subschemas:
        if subschema.schema is not True and subschema.schema != {}:
            yield Subschema({"not": subschema.schema}, subschema.pointer + NEGATED)


def _other_arrays(a: Alternative, b: Items) -> Iterator[Alternative]:
    items = a.items
    if b.least:
        yield replace(a, items=replace(items, most=least_of(items.most, b.least - 1)))
    if b.most is not None:
        yield replace(a, items=replace(items, least=max(items.least, b.most + 1)))
    for place in range(len(b.first)):
        for other in _negated(b.first[place]):
            reach = max(len(items.first), place + 1)
            there = [items.schemas_at(i) for i in range(reach)]
            if None not in there:
                places = [subschemas or () for subschemas in there]
                places[place] = (*places[place], other)
                least = max(items.least, place + 1)
                yield replace(a, items=replace(items, first=tuple(places), least=least, negated=True))
    if b.rest is None:
        yield replace(a, items=replace(items, least=max(items.least, len(b.first) + 1)))
    elif not b.first:
        for other in _negated(b.rest):
            yield replace(a, items=replace(items, contains=(*items.contains, (other, 1, None))))
    for schema, least, most in b.contains:
        if least == 1 and items.rest is not None:
            others = tuple(_negated((schema,)))
            first = tuple((*subschemas, *others) for subschemas in items.first)
            yield replace(a, items=replace(items, first=first, rest=(*items.rest, *others)))
        if most is not None:
            yield replace(a, items=replace(items, contains=(*items.contains, (schema, most + 1, None))))


def _other_objects(a: Alternative, b: Members) -> Iterator[Alternative]:
    members = a.members
    for name in b.required:
        if name not in members.required:
            yield replace(a, members=replace(members, forbidden=members.forbidden | {name}))
    for name in sorted(b.forbidden):
        yield replace(a, members=replace(members, required=_with(members.required, name)))
    known = list(dict.fromkeys([*b.declared(), *members.declared(), *members.required]))
    for name in known:
        subschemas = value_schemas(b, name)
        if value_schemas(members, name) is None:
            continue
        required = _with(members.required, name)
        if subschemas is None:
            if name not in b.forbidden:
                yield replace(a, members=replace(members, required=required))
            continue
        for other in _negated(subschemas):
            layer = Layer({name: other}, evaluates=False)
            yield replace(a, members=replace(members, layers=(*members.layers, layer), required=required))
    if b.least:
        yield replace(a, members=replace(members, most=least_of(members.most, b.least - 1)))
    if b.most is not None:
        yield replace(a, members=replace(members, least=max(members.least, b.most + 1)))


def _with(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    return names if name in names else (*names, name)
