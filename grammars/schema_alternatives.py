"""Schema combination expander: a schema with $ref, allOf, anyOf and oneOf → the alternatives it allows.

The result is a disjunctive normal form. {"type": "string", "anyOf": [{"maxLength": 2}, {"minLength": 9}]} is

    [Alternative(types={"string"}, most_length=2), Alternative(types={"string"}, least_length=9)]
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from gemma4_gguf.errors import SchemaError
from gemma4_gguf.grammars.schema_keywords import read
from gemma4_gguf.grammars.schema_shapes import Alternative, Members, Subschema, intersect, json_equal


def resolve(root: Any, ref: Any, pointer: str) -> Subschema:
    """Look a local reference up.

    Args:
        root: the whole schema.
        ref: "#" or "#/path/to/schema".
        pointer: where the reference stands, for the message.

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
    return Subschema(found, ref[1:])


def expand(root: Any, subschema: Subschema, chain: tuple[str, ...] = ()) -> list[Alternative]:
    """A schema as alternatives.

    Args:
        root: the whole schema, for references.
        subschema: the part to expand.
        chain: places that are being expanded already.

    Raises:
        SchemaError: malformed, inexpressible, or endless.
    """
    schema, pointer = subschema.schema, subschema.pointer
    if schema is True:
        return [Alternative(pointer)]
    if schema is False:
        return []
    if not isinstance(schema, Mapping):
        raise SchemaError(f"a schema is an object or a boolean, not {schema!r}", pointer=pointer)
    if pointer in chain:
        raise SchemaError("the schema refers to itself with nothing in between", pointer=pointer)
    chain = (*chain, pointer)
    alternatives = read(subschema)
    if "$ref" in schema:
        alternatives = intersect(
            alternatives, expand(root, resolve(root, schema["$ref"], f"{pointer}/$ref"), chain), pointer
        )
    for part in parts(subschema, "allOf"):
        alternatives = intersect(alternatives, expand(root, part, chain), pointer)
    if "anyOf" in schema:
        branches = [
            alternative for part in parts(subschema, "anyOf") for alternative in expand(root, part, chain)
        ]
        alternatives = intersect(alternatives, branches, pointer)
    if "oneOf" in schema:
        found = [
            intersect(alternatives, expand(root, part, chain), pointer) for part in parts(subschema, "oneOf")
        ]
        check_disjoint(root, found, f"{pointer}/oneOf")
        alternatives = [alternative for branch in found for alternative in branch]
    return alternatives


def parts(subschema: Subschema, word: str) -> list[Subschema]:
    """Schemas listed under allOf, anyOf or oneOf.

    Raises:
        SchemaError: there is no list, or an empty one.
    """
    listed = subschema.schema.get(word, [])
    where = f"{subschema.pointer}/{word}"
    if not isinstance(listed, list) or (word in subschema.schema and not listed):
        raise SchemaError(f"{word} must list schemas", pointer=where)
    return [Subschema(schema, f"{where}/{i}") for i, schema in enumerate(listed)]


def check_disjoint(root: Any, branches: list[list[Alternative]], pointer: str) -> None:
    """Check that a value satisfies at most one branch of a oneOf, since a grammar cannot say "exactly one".

    Args:
        root: the whole schema, for references.
        branches: the alternatives of each branch.
        pointer: where the oneOf stands.

    Raises:
        SchemaError: two branches may overlap.
    """
    disjoint = _Disjoint(root)
    for i, first in enumerate(branches):
        for other in branches[:i]:
            if not all(disjoint.alternatives(a, b) for a in first for b in other):
                raise SchemaError(
                    "alternatives of oneOf may hold at the same time; use anyOf, or tell them apart by a "
                    "required property with its own const",
                    pointer=pointer,
                )


class _Disjoint:
    """Tests whether no value satisfies both of two alternatives; False also when that is not plain to see.

    They are told apart by type, by bounds on lengths and numbers, or by a required member or element whose
    schemas exclude each other, such as "kind": {"const": "cat"} and "kind": {"const": "dog"}.
    """

    def __init__(self, root: Any) -> None:
        self.root, self.depth = root, 0

    def alternatives(self, a: Alternative, b: Alternative) -> bool:
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
    def values(a: Alternative, b: Alternative) -> bool:
        if a.values is None or b.values is None:
            listed, other = (a, b) if a.values is not None else (b, a)
            return all(satisfies(other, value) is False for value in listed.values or ())
        pairs = [(v, w) for v in a.values for w in b.values if json_equal(v, w)]
        return all(satisfies(a, v) is False or satisfies(b, v) is False for v, _ in pairs)

    @staticmethod
    def strings(a: Alternative, b: Alternative) -> bool:
        return any(x.most_length is not None and x.most_length < y.least_length for x, y in ((a, b), (b, a)))

    @staticmethod
    def numbers(a: Alternative, b: Alternative) -> bool:
        return a.bounds.intersect(b.bounds).is_empty()

    def arrays(self, a: Alternative, b: Alternative) -> bool:
        if any(x.items.most is not None and x.items.most < y.items.least for x, y in ((a, b), (b, a))):
            return True
        n = min(a.items.least, b.items.least, len(a.items.first), len(b.items.first))
        return any(self.subschemas(a.items.first[i], b.items.first[i]) for i in range(n))

    def objects(self, a: Alternative, b: Alternative) -> bool:
        for x, y in ((a.members, b.members), (b.members, a.members)):
            for name in x.required:
                other = _allowed(y, name)
                if other is None:
                    return True
                if name in y.required and self.subschemas(x.schemas_for(name) or (), other):
                    return True
        return False

    def subschemas(self, a: tuple[Subschema, ...], b: tuple[Subschema, ...]) -> bool:
        if not a or not b or self.depth > 8:
            return False
        self.depth += 1
        try:
            return all(
                self.alternatives(x, y) for x in expand(self.root, a[0]) for y in expand(self.root, b[0])
            )
        finally:
            self.depth -= 1


def _allowed(members: Members, name: str) -> tuple[Subschema, ...] | None:
    """Schemas of the value under a name: none known if a pattern may allow it, None if it is not allowed."""
    return () if members.patterned and name not in members.declared else members.schemas_for(name)


def satisfies(alternative: Alternative, value: Any) -> bool | None:
    """Whether a value satisfies an alternative; None when that takes a look at patterns or members."""
    if alternative.values is not None and not any(json_equal(value, v) for v in alternative.values):
        return False
    if value is None or isinstance(value, bool):
        return ("null" if value is None else "boolean") in alternative.types
    if isinstance(value, (int, float)):
        whole = isinstance(value, int) or value.is_integer()
        kinds = {"number", "integer"} if whole else {"number"}
        return bool(kinds & alternative.types) and alternative.bounds.contains(Decimal(repr(value)))
    if isinstance(value, str):
        if "string" not in alternative.types or len(value) < alternative.least_length:
            return False
        if alternative.most_length is not None and len(value) > alternative.most_length:
            return False
        return None if alternative.patterns else True
    if isinstance(value, list):
        plain = alternative.items == type(alternative.items)()
        return (True if plain else None) if "array" in alternative.types else False
    plain = alternative.members == Members()
    return (True if plain else None) if "object" in alternative.types else False
