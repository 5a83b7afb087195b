"""JSON Schema → flat alternatives: references followed; anyOf, oneOf and allOf worked out."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from gemma4_gguf.errors import SchemaError
from gemma4_gguf.grammars.schema_keywords import read
from gemma4_gguf.grammars.schema_shapes import Flat, Members, Sub, meet, same


def resolve(root: Any, ref: Any, pointer: str) -> Sub:
    """Look a local reference up.

    Raises:
        SchemaError: it leads outside the document or to nothing.
    """
    if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
        raise SchemaError(f"only references inside the schema are followed; found {ref!r}", pointer=pointer)
    found = root
    for step in ref.split("/")[1:]:
        key: Any = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and key.isdecimal():
            key = int(key)
        try:
            found = found[key]
        except (KeyError, IndexError, TypeError):
            raise SchemaError(f"{ref} leads to nothing", pointer=pointer) from None
    return Sub(found, ref[1:])


def expand(root: Any, sub: Sub, chain: tuple[str, ...] = ()) -> list[Flat]:
    """A schema as alternatives.

    Args:
        root: the whole schema, for references.
        sub: the part to expand.
        chain: places that are being expanded already.

    Raises:
        SchemaError: malformed, inexpressible, or endless.
    """
    schema, pointer = sub.schema, sub.pointer
    if schema is True:
        return [Flat(pointer)]
    if schema is False:
        return []
    if not isinstance(schema, Mapping):
        raise SchemaError(f"a schema is an object or a boolean, not {schema!r}", pointer=pointer)
    if pointer in chain:
        raise SchemaError("the schema refers to itself with nothing in between", pointer=pointer)
    chain = (*chain, pointer)
    flats = read(sub)
    if "$ref" in schema:
        flats = meet(flats, expand(root, resolve(root, schema["$ref"], f"{pointer}/$ref"), chain), pointer)
    for part in parts(sub, "allOf"):
        flats = meet(flats, expand(root, part, chain), pointer)
    if "anyOf" in schema:
        branches = [flat for part in parts(sub, "anyOf") for flat in expand(root, part, chain)]
        flats = meet(flats, branches, pointer)
    if "oneOf" in schema:
        found = [meet(flats, expand(root, part, chain), pointer) for part in parts(sub, "oneOf")]
        check_disjoint(root, found, f"{pointer}/oneOf")
        flats = [flat for branch in found for flat in branch]
    return flats


def parts(sub: Sub, word: str) -> list[Sub]:
    """Returns: the schemas listed under allOf, anyOf or oneOf."""
    listed = sub.schema.get(word, [])
    where = f"{sub.pointer}/{word}"
    if not isinstance(listed, list) or (word in sub.schema and not listed):
        raise SchemaError(f"{word} must list schemas", pointer=where)
    return [Sub(schema, f"{where}/{i}") for i, schema in enumerate(listed)]


def check_disjoint(root: Any, branches: list[list[Flat]], pointer: str) -> None:
    """oneOf asks for exactly one: a grammar can only offer alternatives that exclude each other."""
    judge = _Disjoint(root)
    for i, first in enumerate(branches):
        for other in branches[:i]:
            if not all(judge.flats(a, b) for a in first for b in other):
                raise SchemaError(
                    "alternatives of oneOf may hold at the same time; use anyOf, or tell them apart by a "
                    "required property with its own const",
                    pointer=pointer,
                )


class _Disjoint:
    """Can no value satisfy both? False also when that is not plain to see."""

    def __init__(self, root: Any) -> None:
        self.root, self.depth = root, 0

    def flats(self, a: Flat, b: Flat) -> bool:
        if a.values is not None or b.values is not None:
            return self.values(a, b)
        shared = a.types & b.types
        if "number" in a.types | b.types and "integer" in a.types | b.types:
            shared |= {"number"}
        tests = {
            "string": self.strings,
            "number": self.numbers,
            "integer": self.numbers,
            "array": self.arrays,
            "object": self.objects,
        }
        return all(kind in tests and tests[kind](a, b) for kind in shared)

    @staticmethod
    def values(a: Flat, b: Flat) -> bool:
        if a.values is None or b.values is None:
            listed, other = (a, b) if a.values is not None else (b, a)
            return all(fits(other, value) is False for value in listed.values or ())
        pairs = [(v, w) for v in a.values for w in b.values if same(v, w)]
        return all(fits(a, v) is False or fits(b, v) is False for v, _ in pairs)

    @staticmethod
    def strings(a: Flat, b: Flat) -> bool:
        return any(x.most_length is not None and x.most_length < y.least_length for x, y in ((a, b), (b, a)))

    @staticmethod
    def numbers(a: Flat, b: Flat) -> bool:
        return a.bounds.meet(b.bounds).is_empty()

    def arrays(self, a: Flat, b: Flat) -> bool:
        if any(x.items.most is not None and x.items.most < y.items.least for x, y in ((a, b), (b, a))):
            return True
        n = min(a.items.least, b.items.least, len(a.items.first), len(b.items.first))
        return any(self.subs(a.items.first[i], b.items.first[i]) for i in range(n))

    def objects(self, a: Flat, b: Flat) -> bool:
        for x, y in ((a.members, b.members), (b.members, a.members)):
            for name in x.required:
                other = _allowed(y, name)
                if other is None:
                    return True
                if name in y.required and self.subs(x.under(name) or (), other):
                    return True
        return False

    def subs(self, a: tuple[Sub, ...], b: tuple[Sub, ...]) -> bool:
        if not a or not b or self.depth > 8:
            return False
        self.depth += 1
        try:
            return all(self.flats(x, y) for x in expand(self.root, a[0]) for y in expand(self.root, b[0]))
        finally:
            self.depth -= 1


def _allowed(members: Members, name: str) -> tuple[Sub, ...] | None:
    return () if members.patterned and name not in members.declared else members.under(name)


def fits(flat: Flat, value: Any) -> bool | None:
    """Does a value satisfy an alternative? None when that takes more than its own limits to tell."""
    if flat.values is not None and not any(same(value, v) for v in flat.values):
        return False
    if value is None or isinstance(value, bool):
        return ("null" if value is None else "boolean") in flat.types
    if isinstance(value, (int, float)):
        whole = isinstance(value, int) or value.is_integer()
        kinds = {"number", "integer"} if whole else {"number"}
        return bool(kinds & flat.types) and flat.bounds.holds(Decimal(repr(value)))
    if isinstance(value, str):
        if "string" not in flat.types or len(value) < flat.least_length:
            return False
        if flat.most_length is not None and len(value) > flat.most_length:
            return False
        return None if flat.patterns else True
    if isinstance(value, list):
        plain = flat.items == type(flat.items)()
        return (True if plain else None) if "array" in flat.types else False
    plain = flat.members == Members()
    return (True if plain else None) if "object" in flat.types else False
