"""Schema combination expander: a schema with $ref, allOf, anyOf, oneOf, not, if → the alternatives it allows.

The result is a disjunctive normal form. {"type": "string", "anyOf": [{"maxLength": 2}, {"minLength": 9}]} is

    [Alternative(types={"string"}, most_length=2), Alternative(types={"string"}, least_length=9)]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gemma4_gguf.errors import SchemaError
from gemma4_gguf.grammars.schema_difference import NEGATED, Difference
from gemma4_gguf.grammars.schema_keywords import read
from gemma4_gguf.grammars.schema_references import References
from gemma4_gguf.grammars.schema_shapes import (
    MAX_ALTERNATIVES,
    Alternative,
    Items,
    Layer,
    Members,
    Subschema,
    distinct,
    intersect,
)

_MAX_CHAIN = 100
_DEPENDENT = ("dependentRequired", "dependentSchemas", "dependencies")
_Alternatives = list[Alternative]


class Expander:
    """Expands the schemas of one document, each once.

    Args:
        root: the document.
    """

    def __init__(self, root: Any) -> None:
        self.references = References(root)
        self.difference = Difference(self)
        self._known: dict[tuple[str, bool], _Alternatives] = {}
        self._chain: list[tuple[str, bool]] = []
        self._evaluated: bool | None = None

    def expand(self, subschema: Subschema, *, over: bool = False) -> _Alternatives:
        """A schema as alternatives.

        Args:
            subschema: the schema.
            over: take it as wide as any reader may; see `read`.

        Raises:
            SchemaError: malformed, inexpressible, or endless.
        """
        schema, pointer = subschema.schema, subschema.pointer
        if schema is True:
            return [Alternative(pointer)]
        if schema is False:
            return []
        if not isinstance(schema, Mapping):
            raise SchemaError(
                f"a schema is an object or a boolean, not {str(schema)[:80]!r}", pointer=pointer
            )
        key = (pointer, over)
        if key not in self._known:
            if key in self._chain:
                raise SchemaError("the schema refers to itself with nothing in between", pointer=pointer)
            if len(self._chain) >= _MAX_CHAIN:
                raise SchemaError(
                    "schemas are combined in one another too deeply; flatten them", pointer=pointer
                )
            self._chain.append(key)
            try:
                self._known[key] = self._expand(subschema, over)
            finally:
                self._chain.pop()
        return self._known[key]

    def conjunction(self, subschemas: Sequence[Subschema], *, over: bool = False) -> _Alternatives:
        """What satisfies all of some schemas."""
        found = [Alternative(subschemas[0].pointer if subschemas else "")]
        for subschema in subschemas:
            found = intersect(found, self.expand(subschema, over=over), subschema.pointer)
        return found

    def _expand(self, subschema: Subschema, over: bool) -> _Alternatives:
        schema, pointer = subschema.schema, subschema.pointer
        found = read(subschema, over=over)
        for part in self._all_of(subschema):
            found = intersect(found, self.expand(part, over=over), pointer)
        if "anyOf" in schema:
            branches = [self.expand(part, over=over) for part in parts(subschema, "anyOf")]
            found = intersect(found, _joined(union(branches, pointer)), pointer)
        if "oneOf" in schema:
            found = self._one_of(found, subschema, over)
        if "not" in schema:
            inner = pointer.removesuffix(NEGATED) if pointer.endswith(NEGATED) else f"{pointer}/not"
            found = self._without(found, Subschema(schema["not"], inner), over)
        if "if" in schema:
            found = self._conditional(found, subschema, over)
        for word in _DEPENDENT:
            if word in schema:
                found = self._dependent(found, subschema, word, over)
        if not over:
            found = _look_after_others(found, subschema)
        return found

    def _all_of(self, subschema: Subschema) -> list[Subschema]:
        """The schemas that hold besides: where references lead, and allOf."""
        schema, pointer = subschema.schema, subschema.pointer
        found = []
        if "$ref" in schema:
            found.append(self.references.resolve(schema["$ref"], f"{pointer}/$ref"))
        for word in ("$dynamicRef", "$recursiveRef"):
            if word in schema:
                found.append(self.references.resolve_dynamic(schema[word], f"{pointer}/{word}"))
        return found + parts(subschema, "allOf")

    def _one_of(self, found: _Alternatives, subschema: Subschema, over: bool) -> _Alternatives:
        """Exactly one of the branches: each without all the others."""
        branches = parts(subschema, "oneOf")
        pointer = f"{subschema.pointer}/oneOf"
        if over:
            every = union([self.expand(branch, over=True) for branch in branches], pointer)
            return intersect(found, every, pointer)
        own = [intersect(found, self.expand(branch), pointer) for branch in branches]
        wide = [self.expand(branch, over=True) for branch in branches]
        only = []
        for i, alternatives in enumerate(own):
            for j, other in enumerate(wide):
                if i != j and alternatives:
                    alternatives = self.difference.without(alternatives, other, pointer)
            only.append(alternatives)
        if any(own) and not any(only):
            raise SchemaError(
                "alternatives of oneOf may hold at the same time; use anyOf, or tell them apart by a "
                "required property with its own const",
                pointer=pointer,
            )
        return union(only, pointer)

    def _without(self, found: _Alternatives, other: Subschema, over: bool) -> _Alternatives:
        """Values that do not satisfy a schema; taken as wide as may be, all of them."""
        inner = other.schema
        if isinstance(inner, Mapping) and set(inner) == {"not"} and not self._asks_what_is_evaluated():
            # Twice turned around is as it was, but for what it looks after.
            again = Subschema(inner["not"], f"{other.pointer}/not")
            return intersect(found, self.expand(again, over=over), other.pointer)
        if over or not found:
            return found
        others = self.expand(other, over=True)
        if other.schema is True or other.schema == {}:
            return []
        left = self.difference.without(found, others, other.pointer)
        if not left:
            raise SchemaError("not cannot be expressed as a grammar here", pointer=other.pointer)
        return left

    def _asks_what_is_evaluated(self) -> bool:
        """Whether unevaluatedProperties or unevaluatedItems is anywhere in the document."""
        if self._evaluated is None:
            self._evaluated, left = False, [self.references.root]
            while left and not self._evaluated:
                part = left.pop()
                if isinstance(part, Mapping):
                    self._evaluated = any(str(word).startswith("unevaluated") for word in part)
                    left += part.values()
                elif isinstance(part, list):
                    left += part
        return self._evaluated

    def _conditional(self, found: _Alternatives, subschema: Subschema, over: bool) -> _Alternatives:
        """if, then and else: the values of "then" that satisfy "if", and those of "else" that do not."""
        schema, pointer = subschema.schema, subschema.pointer
        condition = Subschema(schema["if"], f"{pointer}/if")
        yes = no = found
        if "then" in schema:
            yes = intersect(
                found, self.expand(Subschema(schema["then"], f"{pointer}/then"), over=over), pointer
            )
        if "else" in schema:
            no = intersect(
                found, self.expand(Subschema(schema["else"], f"{pointer}/else"), over=over), pointer
            )
        if yes is no:
            return found
        if not over:
            yes = intersect(yes, self.expand(condition), pointer)
            no = self.difference.without(no, self.expand(condition, over=True), pointer)
        return union([yes, no], pointer)

    def _dependent(self, found: _Alternatives, subschema: Subschema, word: str, over: bool) -> _Alternatives:
        """Where a member is there, others must be, or a schema holds."""
        listed, pointer = subschema.schema[word], f"{subschema.pointer}/{word}"
        if not isinstance(listed, Mapping):
            raise SchemaError(f"{word} must be an object", pointer=pointer)
        for name, needed in listed.items():
            there = Members(required=(name,))
            absent = Alternative(pointer, members=Members(forbidden=frozenset({name})))
            if isinstance(needed, list):
                if not all(isinstance(other, str) for other in needed):
                    raise SchemaError(f"{word} must list names", pointer=pointer)
                there = Members(required=tuple(dict.fromkeys((name, *needed))))
                then = [Alternative(pointer, members=there)]
            else:
                schema = Subschema(needed, f"{pointer}/{name}")
                present = [Alternative(pointer, members=there)]
                then = intersect(present, self.expand(schema, over=over), pointer)
            found = union([intersect(found, [absent], pointer), intersect(found, then, pointer)], pointer)
        return found


def union(branches: Sequence[_Alternatives], pointer: str) -> _Alternatives:
    """Alternatives of any of several schemas.

    Raises:
        SchemaError: there are too many.
    """
    found = distinct(alternative for branch in branches for alternative in branch)
    if len(found) > MAX_ALTERNATIVES * 4:
        raise SchemaError(f"more than {MAX_ALTERNATIVES * 4} alternatives", pointer=pointer)
    return found


def _joined(alternatives: _Alternatives) -> _Alternatives:
    """Alternatives that are texts of one pattern each, as one alternative of all the patterns."""
    if len(alternatives) < 2:
        return alternatives
    first = alternatives[0]
    for one in alternatives:
        plain = one.types == {"string"} and len(one.patterns) == 1 and "(?" not in one.patterns[0][0]
        if not plain or replace(one, pointer="", patterns=()) != Alternative("", one.types):
            return alternatives
    text = "|".join([one.patterns[0][0] for one in alternatives])
    return [replace(first, patterns=((text, first.patterns[0][1]),))]


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


def _look_after_others(found: _Alternatives, subschema: Subschema) -> _Alternatives:
    """unevaluatedProperties and unevaluatedItems: what no schema around has spoken of."""
    schema, pointer = subschema.schema, subschema.pointer
    for word in ("unevaluatedProperties", "unevaluatedItems"):
        more = schema.get(word, True)
        if more is True or more == {}:
            continue
        other = None if more is False else Subschema(more, f"{pointer}/{word}")
        close = _close_members if word == "unevaluatedProperties" else _close_items
        found = [close(alternative, other, f"{pointer}/{word}") for alternative in found]
    return found


def _close_members(alternative: Alternative, other: Subschema | None, pointer: str) -> Alternative:
    layers = [layer for layer in alternative.members.layers if layer.evaluates]
    if any(layer.additional_given and layer.additional is not None for layer in layers):
        return alternative
    anything = Subschema(True, "")
    last = Layer(
        {name: anything for layer in layers for name in layer.declared},
        tuple((text, at, anything) for layer in layers for text, at, _ in layer.patterned),
        other,
        True,
    )
    return intersect([alternative], [Alternative(pointer, members=Members((last,)))], pointer)[0]


def _close_items(alternative: Alternative, other: Subschema | None, pointer: str) -> Alternative:
    items = alternative.items
    if items.contains or items.negated:
        word = "contains" if items.contains else "not"
        raise SchemaError(f"unevaluatedItems beside {word} cannot be expressed", pointer=pointer)
    if items.rest != ():
        return alternative
    anything = tuple((Subschema(True, ""),) for _ in items.first)
    closed = Items(anything, None if other is None else (other,))
    return intersect([alternative], [Alternative(pointer, items=closed)], pointer)[0]
