"""Schema compiler: a JSON schema → the rules of a grammar, in a notation.

Objects have their members in declared order; required ones always, others or none in between. Without a word
about additional members there are none beside declared ones. References become rules, so recursion in the
schema is recursion in the grammar.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gemma4_gguf.errors import SchemaError
from gemma4_gguf.grammars.grammar import (
    EMPTY,
    Chars,
    Either,
    Grammar,
    Node,
    Ref,
    Repeat,
    Seq,
    Text,
    either,
    either_or_none,
    left_recursion,
    optional,
    references,
    seq,
)
from gemma4_gguf.grammars.notation import Notation, literal
from gemma4_gguf.grammars.schema_alternatives import expand, parts, resolve, satisfies
from gemma4_gguf.grammars.schema_numbers import Bounds, real_numbers, whole_numbers
from gemma4_gguf.grammars.schema_objects import write_members
from gemma4_gguf.grammars.schema_shapes import Alternative, Items, Members, Subschema, deduplicated, intersect
from gemma4_gguf.grammars.schema_strings import text_body

_MAX_UNIQUE = 8
# Words that say nothing about values; others are looked at.
_SILENT = frozenset({"$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default"})
_SILENT |= {"examples", "example", "deprecated", "readOnly", "writeOnly", "discriminator"}


class Compiler:
    """Compiles the parts of one schema document.

    Args:
        root: the document, in which references are looked up.
        notation: how values are written.
    """

    def __init__(self, root: Any, notation: Notation) -> None:
        self.root, self.notation = root, notation
        rules = {name: rule for name, rule in notation.base.rules.items() if name != "root"}
        self.grammar = Grammar(rules, set(notation.lexemes))
        self._whole_number: Node | None = None
        self._rules: dict[tuple[str, ...], str] = {}
        self._active: dict[tuple[str, ...], str | None] = {}

    def document(self) -> Grammar:
        """The whole schema as a grammar.

        Raises:
            SchemaError: it is malformed, inexpressible, or nothing can satisfy it.
        """
        return self.finish(self.document_node("root-value"))

    def document_node(self, name_hint: str) -> Node:
        """The whole schema as a node of `grammar`."""
        try:
            node = self.compile((Subschema(self.root, ""),), name_hint)
        except RecursionError as error:
            raise SchemaError(
                "it is nested too deeply: objects may hold each other some 100 times; flatten it"
            ) from error
        if node is None:
            raise SchemaError("nothing can satisfy this schema")
        return node

    def finish(self, node: Node) -> Grammar:
        """Make a node the root, and check that an engine can follow and end it."""
        rules = self.grammar.rules
        if isinstance(node, Ref) and not any(node.name in references(rule) for rule in rules.values()):
            node = rules.pop(node.name)
        self.grammar.rules = {"root": node} | rules
        if name := left_recursion(self.grammar):
            raise SchemaError(f"the schema refers to itself with nothing in between (rule {name})")
        if endless(self.grammar):
            raise SchemaError("nothing finite can satisfy this schema: it requires itself for ever")
        return self.grammar

    def compile(self, subschemas: tuple[Subschema, ...], name_hint: str) -> Node | None:
        """A value that satisfies all of some schemas.

        Args:
            subschemas: the schemas; none means any value.
            name_hint: what a rule for it may be called.

        Returns:
            A node, None if no value does.
        """
        subschemas = tuple(
            subschema
            for subschema in deduplicated(subschemas)
            if subschema.schema is not True and subschema.schema != {}
        )
        if not subschemas:
            return Ref("value")
        if (
            len(subschemas) == 1
            and isinstance(subschemas[0].schema, Mapping)
            and is_reference(subschemas[0].schema)
        ):
            target = resolve(self.root, subschemas[0].schema["$ref"], f"{subschemas[0].pointer}/$ref")
            return self._rule((target,), target.pointer.rpartition("/")[2] or "root-value", always=True)
        return self._rule(subschemas, name_hint, always=False)

    def _rule(self, subschemas: tuple[Subschema, ...], name_hint: str, *, always: bool) -> Node | None:
        """As `compile`. Schemas become a rule, the same one each time, if recursive or `always`."""
        key = tuple(subschema.pointer for subschema in subschemas)
        if key in self._rules:
            return Ref(self._rules[key])
        if key in self._active:  # it holds itself, so it must be a rule
            self._active[key] = self._active[key] or self.grammar.name_for(name_hint)
            return Ref(self._active[key] or "")
        self._active[key] = None
        node = self._body(subschemas, name_hint)
        name = self._active.pop(key)
        if node is None:
            if name is not None:
                self.grammar.rules[name] = Either(())
            return None
        if name is None and not (always and _worth_a_rule(node)):
            return node
        name = name or self.grammar.name_for(name_hint)
        self.grammar.rules[name] = node
        self._rules[key] = name
        return Ref(name)

    def _body(self, subschemas: tuple[Subschema, ...], name_hint: str) -> Node | None:
        """As `compile`, without looking at rules that are there already."""
        if len(subschemas) == 1 and (word := _only_branches(subschemas[0].schema)):
            if word == "oneOf":
                expand(self.root, subschemas[0])  # refuses alternatives that overlap
            return either_or_none([self.compile((part,), name_hint) for part in parts(subschemas[0], word)])
        alternatives = [Alternative(subschemas[0].pointer)]
        for subschema in subschemas:
            alternatives = intersect(alternatives, expand(self.root, subschema), subschema.pointer)
        return either_or_none(self.alternative(alternative, name_hint) for alternative in alternatives)

    def alternative(self, alternative: Alternative, name_hint: str) -> Node | None:
        """A value that satisfies one alternative; None if no value does."""
        if alternative.values is not None:
            return self._values(alternative, alternative.values)
        if alternative.is_anything():
            return Ref("value")
        ways: list[Node | None] = []
        if "number" in alternative.types:
            free = alternative.bounds == Bounds()
            ways.append(Ref("number") if free else self._range(real_numbers(alternative.bounds), name_hint))
        elif "integer" in alternative.types:
            free = alternative.bounds == Bounds()
            ways.append(
                self._integer() if free else self._range(whole_numbers(alternative.bounds), name_hint)
            )
        if "string" in alternative.types:
            ways.append(self.string(alternative, name_hint))
        if "object" in alternative.types:
            ways.append(self._object(alternative.members, alternative.pointer, name_hint))
        if "array" in alternative.types:
            ways.append(self._array(alternative.items, alternative.pointer, name_hint))
        ways += [Ref(kind) for kind in ("boolean", "null") if kind in alternative.types]
        return either_or_none(ways)

    def _range(self, node: Node | None, name_hint: str) -> Node | None:
        return (
            node
            if node is None or isinstance(node, (Text, Chars))
            else self.grammar.add(name_hint, node, lexeme=True)
        )

    def _integer(self) -> Node:
        if self._whole_number is None:
            self._whole_number = self.grammar.add("integer", whole_numbers(Bounds()) or EMPTY, lexeme=True)
        return self._whole_number

    def _values(self, alternative: Alternative, values: tuple[Any, ...]) -> Node | None:
        ways = []
        for value in values:
            satisfied = satisfies(alternative, value)
            if satisfied is None:
                raise SchemaError("enum or const beside other limits", pointer=alternative.pointer)
            if satisfied:
                ways.append(literal(self.notation, value, alternative.pointer))
        return either_or_none(ways)

    def string(self, alternative: Alternative, name_hint: str) -> Node | None:
        """A text, quotes included."""
        if not alternative.patterns and not alternative.least_length and alternative.most_length is None:
            return Ref(self.notation.free_text)
        body = text_body(alternative, self.notation, self.grammar)
        if body is None:
            return None
        return self.grammar.add(name_hint, seq(self.notation.quote, body, self.notation.quote), lexeme=True)

    # Arrays

    def _array(self, items: Items, pointer: str, name_hint: str) -> Node | None:
        if items == Items():
            return Ref("array")
        if items.unique and (items.most is None or items.most > 1):
            return self._set(items, pointer, name_hint)
        first = [self.compile(subschemas, f"{name_hint}-{i + 1}") for i, subschemas in enumerate(items.first)]
        rest = None if items.rest is None else self.compile(items.rest, f"{name_hint}-item")
        reach = next((i for i, node in enumerate(first) if node is None), None)
        most = items.most
        if reach is not None or rest is None:
            limit = len(first) if reach is None else reach
            most = limit if most is None else min(most, limit)
        if most is not None and most < items.least:
            return None
        inner = self._elements([node for node in first if node is not None][:most], rest, items.least, most)
        space = self.notation.space
        full = seq(Text("["), space, inner, space, Text("]"))
        if items.least == 0:
            full = (
                either(seq(Text("["), space, Text("]")), full)
                if inner != EMPTY
                else seq(Text("["), space, Text("]"))
            )
        return self.grammar.add(name_hint, full)

    def _elements(self, first: list[Node], rest: Node | None, least: int, most: int | None) -> Node:
        """At least one element, if the array may have any."""
        comma = seq(Text(","), self.notation.space)
        fixed = len(first)
        low, high = max(least - fixed, 0), None if most is None else most - fixed
        if not fixed:
            if rest is None or high == 0:
                return EMPTY
            more = self.grammar.repeat(
                seq(comma, rest), max(low - 1, 0), None if high is None else high - 1, "more"
            )
            return seq(rest, more)
        tail: Node = EMPTY
        if rest is not None and high != 0:
            tail = self.grammar.repeat(seq(comma, rest), low, high, "more")
        for i in range(fixed - 1, 0, -1):
            tail = seq(comma, first[i], tail)
            tail = tail if i < least else optional(tail)
        return seq(first[0], tail)

    def _set(self, items: Items, pointer: str, name_hint: str) -> Node | None:
        """An array of different listed values: a rule for each set of values used so far."""
        alternatives = [Alternative(pointer)] if not items.first and items.rest else []
        for subschema in items.rest or ():
            alternatives = intersect(alternatives, expand(self.root, subschema), pointer)
        values: list[Any] = []
        for alternative in alternatives:
            values += _listed(alternative) or [None] * (_MAX_UNIQUE + 1)
        if not values or len(values) > _MAX_UNIQUE:
            raise SchemaError(
                f"uniqueItems is kept only for up to {_MAX_UNIQUE} listed values; use a list, not a set",
                pointer=f"{pointer}/uniqueItems",
            )
        texts = [literal(self.notation, value, pointer) for value in values]
        most = len(texts) if items.most is None else min(items.most, len(texts))
        if most < items.least:
            return None
        comma = seq(Text(","), self.notation.space)
        rules: dict[frozenset[int], Node] = {}

        def after(used: frozenset[int]) -> Node:
            if used not in rules:
                left = [i for i in range(len(texts)) if i not in used] if len(used) < most else []
                glue = comma if used else EMPTY
                ways: list[Node] = [seq(glue, texts[i], after(used | {i})) for i in left]
                if len(used) >= max(items.least, 1):
                    ways.append(EMPTY)
                rules[used] = (
                    EMPTY if ways == [EMPTY] else self.grammar.add(f"{name_hint}-set", either(*ways))
                )
            return rules[used]

        space = self.notation.space
        ways = [seq(Text("["), space, Text("]"))] if items.least == 0 else []
        if most:
            ways.append(seq(Text("["), space, after(frozenset()), space, Text("]")))
        return either(*ways)

    # Objects

    def _object(self, members: Members, pointer: str, name_hint: str) -> Node | None:
        if members == Members() or members == Members(additional_given=True):
            return Ref("object")
        inner = write_members(self, members, pointer, name_hint)
        if inner is None:
            return None
        some, none = inner
        space = self.notation.space
        ways = [seq(Text("{"), space, Text("}"))] if none else []
        if some is not None:
            ways.append(seq(Text("{"), space, some, space, Text("}")))
        return self.grammar.add(name_hint, either(*ways)) if ways else None


def is_reference(schema: Mapping[str, Any]) -> bool:
    """Whether a schema is a $ref and, apart from annotations, nothing else."""
    return "$ref" in schema and not set(schema) - _SILENT - {"$ref"}


def _only_branches(schema: Any) -> str | None:
    """The word anyOf or oneOf, if the schema says nothing else."""
    words = {
        "title",
        "description",
        "default",
        "examples",
        "discriminator",
        "$defs",
        "definitions",
        "$schema",
    }
    rest = set(schema) - words if isinstance(schema, Mapping) else set()
    return rest.pop() if len(rest) == 1 and rest <= {"anyOf", "oneOf"} else None


def _listed(alternative: Alternative) -> list[Any] | None:
    """All values of an alternative, None if they are not listed."""
    if alternative.values is not None:
        return [value for value in alternative.values if satisfies(alternative, value)]
    if alternative.types <= {"boolean", "null"}:
        return [value for value in (True, False, None) if satisfies(alternative, value)]
    return None


def _worth_a_rule(node: Node) -> bool:
    return not isinstance(node, (Ref, Text))


def endless(grammar: Grammar) -> bool:
    """Whether the root matches no finite text, as in a ::= "(" a ")"."""
    size: dict[str, float] = dict.fromkeys(grammar.rules, math.inf)
    changed = True
    while changed:
        changed = False
        for name, node in grammar.rules.items():
            shortest = _shortest(node, size)
            if shortest < size[name]:
                size[name], changed = shortest, True
    return size["root"] == math.inf


def _shortest(node: Node, size: dict[str, float]) -> float:
    """Characters of the shortest text of a node, given those of the rules."""
    if isinstance(node, Ref):
        return size[node.name]
    if isinstance(node, Seq):
        return sum(_shortest(item, size) for item in node.items)
    if isinstance(node, Either):
        return min((_shortest(item, size) for item in node.items), default=math.inf)
    if isinstance(node, Repeat):
        return node.least * _shortest(node.item, size) if node.least else 0
    return len(node.value) if isinstance(node, Text) else 1
