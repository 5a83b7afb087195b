"""Schema compiler: a JSON schema → the rules of a grammar, in a notation.

Objects have their members in declared order; required ones always, others or none in between. Without a word
about additional members there are none beside declared ones. What holds other schemas becomes a rule, one
for each place of the document, so references cost nothing and recursion in the schema is recursion in the
grammar.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from gemma4_gguf.errors import SchemaError
from gemma4_gguf.grammars.analysis import first_circle, first_references, prune, shortest_texts
from gemma4_gguf.grammars.grammar import (
    EMPTY,
    NOTHING,
    Chars,
    Grammar,
    Node,
    Ref,
    Text,
    either,
    either_or_none,
    references,
    seq,
)
from gemma4_gguf.grammars.notation import Notation, literal
from gemma4_gguf.grammars.schema_alternatives import Expander, parts
from gemma4_gguf.grammars.schema_arrays import write_array
from gemma4_gguf.grammars.schema_numbers import Bounds, whole_numbers
from gemma4_gguf.grammars.schema_objects import write_members
from gemma4_gguf.grammars.schema_shapes import Alternative, Items, Members, Subschema, deduplicated
from gemma4_gguf.grammars.schema_steps import numbers
from gemma4_gguf.grammars.schema_strings import text_body

_MAX_DEPTH = 401  # of lists and objects in one another in a schema
# Words that say nothing about values; others are looked at.
_SILENT = frozenset({"$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default"})
_SILENT |= {"examples", "example", "deprecated", "readOnly", "writeOnly", "discriminator"}


class Compiler:
    """Compiles the parts of one schema document.

    Args:
        root: the document, in which references are looked up.
        notation: how values are written.
        meets: the grammar is for llguidance; otherwise for GBNF text.
        grammar: takes the rules; a new one if None.
        longest_text: characters of a text for which the schema says neither a length nor a pattern, at most;
            None for any number.

    Raises:
        SchemaError: the document is nested too deeply.
    """

    def __init__(
        self,
        root: Any,
        notation: Notation,
        *,
        meets: bool = False,
        grammar: Grammar | None = None,
        longest_text: int | None = None,
    ) -> None:
        check_nesting(root)
        self.notation, self.root, self.longest_text = notation, Subschema(root, ""), longest_text
        self.expander = Expander(root)
        rules = {name: rule for name, rule in notation.base.rules.items() if name != "root"}
        self.grammar = grammar or Grammar(rules, set(notation.lexemes), meets, notation.base.rules)
        self._known: dict[tuple[str, ...], Node] = {}
        self._queue: deque[tuple[str, list[Alternative]]] = deque()
        self._whole_number: Node | None = None

    def document(self) -> Grammar:
        """The whole schema as a grammar.

        Raises:
            SchemaError: it is malformed, inexpressible, or nothing can satisfy it.
        """
        return self.finish(self.document_node("root-value"))

    def document_node(self, name_hint: str) -> Node:
        """The whole schema as a node of `grammar`."""
        try:
            node = self.compile((self.root,), name_hint)
            while self._queue:
                name, alternatives = self._queue.popleft()
                ways = [self.alternative(alternative, name) for alternative in alternatives]
                self.grammar.rules[name] = either_or_none(ways) or NOTHING
        except RecursionError as error:
            raise SchemaError("it is nested too deeply; flatten it") from error
        if node == NOTHING:
            raise SchemaError("nothing can satisfy this schema")
        return node

    def finish(self, node: Node) -> Grammar:
        """Make a node the root, and check that an engine can follow and end it."""
        base = self.notation.base.rules
        rules = {name: rule for name, rule in self.grammar.rules.items() if name not in base}
        if isinstance(node, Ref) and node.name in rules and node.name not in self.grammar.lexemes:
            node = node if self._is_used(node.name, rules) else rules.pop(node.name)
        rules = {"root": node} | rules
        known = _base_sizes(self.notation)
        shortest = shortest_texts(rules, known)
        if shortest["root"] == math.inf:
            possible = shortest_texts(rules, known, never=0)["root"] < math.inf
            raise SchemaError(
                "nothing can satisfy this schema"
                if possible
                else "nothing finite can satisfy this schema: it requires itself for ever"
            )
        rules = prune(rules, shortest)
        if name := first_circle(first_references(rules, shortest)):
            raise SchemaError(f"the schema refers to itself with nothing in between (rule {name})")
        self.grammar.rules = rules | {name: rule for name, rule in base.items() if name != "root"}
        return self.grammar

    @staticmethod
    def _is_used(name: str, rules: Mapping[str, Node]) -> bool:
        """Whether a rule refers to the one of this name."""
        return any(name in references(rule) for rule in rules.values())

    def compile(self, subschemas: tuple[Subschema, ...], name_hint: str) -> Node:
        """A value that satisfies all of some schemas.

        Args:
            subschemas: the schemas; none means any value.
            name_hint: what a rule for it may be called.

        Returns:
            A node, NOTHING if it is plain that no value does.
        """
        subschemas = tuple(
            self._target(subschema)
            for subschema in deduplicated(subschemas)
            if subschema.schema is not True and subschema.schema != {}
        )
        subschemas = deduplicated(subschemas)
        if not subschemas:
            return Ref("value")
        key = tuple(sorted(subschema.pointer for subschema in subschemas))
        if key not in self._known:
            if len(subschemas) == 1 and subschemas[0].pointer.rpartition("/")[0].endswith(
                ("/$defs", "/definitions")
            ):
                name_hint = subschemas[0].pointer.rpartition("/")[2]
            branches = self._branches(subschemas)
            plain = self._plain(subschemas, name_hint)
            if plain is not None:
                self._known[key] = plain
            elif branches is not None:
                self._known[key] = self._union(key, branches, name_hint)
            else:
                self._known[key] = self._values_or_rule(self.expander.conjunction(subschemas), name_hint)
        return self._known[key]

    def _plain(self, subschemas: Sequence[Subschema], name_hint: str) -> Node | None:
        """The values of a schema that names a scalar type and says nothing else: most schemas are so."""
        schema = subschemas[0].schema
        if len(subschemas) > 1 or type(schema) is not dict or schema.keys() - _SILENT != {"type"}:
            return None
        kind = schema["type"]
        if kind in ("boolean", "null", "number"):
            return Ref(kind)
        if kind == "integer":
            return self._integer()
        if kind != "string":
            return None
        return self.string(Alternative(subschemas[0].pointer, frozenset({"string"})), name_hint)

    def _target(self, subschema: Subschema) -> Subschema:
        """The schema itself, or where it leads if it is a reference and nothing else."""
        for _ in range(100):
            schema = subschema.schema
            if not isinstance(schema, Mapping) or "$ref" not in schema or set(schema) - _SILENT - {"$ref"}:
                return subschema
            subschema = self.expander.references.resolve(schema["$ref"], f"{subschema.pointer}/$ref")
        raise SchemaError("the schema refers to itself with nothing in between", pointer=subschema.pointer)

    def _branches(self, subschemas: Sequence[Subschema]) -> list[Subschema] | None:
        """The schemas of an anyOf beside which nothing else is said."""
        schema = subschemas[0].schema
        if len(subschemas) > 1 or not isinstance(schema, Mapping) or set(schema) - _SILENT != {"anyOf"}:
            return None
        return parts(subschemas[0], "anyOf")

    def _union(self, key: tuple[str, ...], branches: list[Subschema], name_hint: str) -> Node:
        name = self.grammar.name_for(name_hint)
        self._known[key] = Ref(name)
        node = either_or_none(self.compile((branch,), name_hint) for branch in branches) or NOTHING
        self.grammar.rules[name] = node
        return Ref(name)

    def _values_or_rule(self, alternatives: list[Alternative], name_hint: str) -> Node:
        """Scalars as they stand; what holds other schemas becomes a rule, which is written later."""
        if not any(_holds_others(alternative) for alternative in alternatives):
            ways = [self.alternative(alternative, name_hint) for alternative in alternatives]
            node = either_or_none(ways) or NOTHING
            return self.grammar.share(name_hint, node)
        name = self.grammar.name_for(name_hint)
        self._queue.append((name, alternatives))
        return Ref(name)

    def alternative(self, alternative: Alternative, name_hint: str) -> Node | None:
        """A value that satisfies one alternative; None if no value does."""
        if alternative.values is not None:
            return self._values(alternative, alternative.values, name_hint)
        if alternative.is_anything():
            return Ref("value")
        ways: list[Node | None] = []
        if alternative.types & {"number", "integer"}:
            ways.append(self._number(alternative, name_hint))
        if "string" in alternative.types:
            ways.append(self.string(alternative, name_hint))
        if "object" in alternative.types:
            ways.append(self._object(alternative.members, alternative.pointer, name_hint))
        if "array" in alternative.types:
            ways.append(write_array(self, alternative.items, alternative.pointer, name_hint))
        ways += [Ref(kind) for kind in ("boolean", "null") if kind in alternative.types]
        return either_or_none(ways)

    def _number(self, alternative: Alternative, name_hint: str) -> Node | None:
        real = "number" in alternative.types
        if alternative.bounds == Bounds() and not alternative.steps:
            return Ref("number") if real else self._integer()
        node = numbers(alternative, self.grammar, whole=not real)
        plain = node is None or isinstance(node, (Text, Chars))
        return node if plain or node is None else self.grammar.add(name_hint, node, lexeme=True)

    def _integer(self) -> Node:
        if self._whole_number is None:
            self._whole_number = self.grammar.add("integer", whole_numbers(Bounds()) or EMPTY, lexeme=True)
        return self._whole_number

    def _values(self, alternative: Alternative, values: tuple[Any, ...], name_hint: str) -> Node | None:
        limits, notation = replace(alternative, values=None), self.notation
        left = [value for value in values if self.expander.difference.satisfies(limits, value)]
        texts = [notation.unquoted(value, alternative.pointer) for value in left if isinstance(value, str)]
        ways: list[Node] = []
        if texts:
            quoted = seq(notation.quote, either(*texts), notation.quote)
            ways.append(self.grammar.add(name_hint, quoted, lexeme=True))
        others = [value for value in left if not isinstance(value, str)]
        ways += [literal(notation, value, alternative.pointer) for value in others]
        return either_or_none(ways)

    def string(self, alternative: Alternative, name_hint: str) -> Node | None:
        """A text, quotes included."""
        if self.longest_text is not None and alternative.most_length is None and not alternative.patterns:
            longest = max(self.longest_text, 2 * alternative.least_length)
            alternative = replace(alternative, most_length=longest)
        if alternative.is_free_text():
            return Ref(self.notation.free_text)
        body = text_body(alternative, self.notation, self.grammar)
        if body is None:
            return None
        return self.grammar.share(name_hint, seq(self.notation.quote, body, self.notation.quote), lexeme=True)

    def _object(self, members: Members, pointer: str, name_hint: str) -> Node | None:
        if members == Members() or _is_free(members):
            return Ref("object")
        some, none = write_members(self, members, pointer, name_hint)
        space = self.notation.space
        ways: list[Node] = [seq(Text("{"), space, Text("}"))] if none else []
        if some is not None:
            ways.append(seq(Text("{"), space, some, space, Text("}")))
        return either(*ways) if ways else None


@cache
def _base_sizes(notation: Notation) -> dict[str, float]:
    """Characters of the shortest texts of the rules that a notation brings."""
    return shortest_texts(notation.base.rules)


def _is_free(members: Members) -> bool:
    """Whether nothing but "additionalProperties: true" is said."""
    bare = Members(members.layers)
    return members == bare and all(
        not layer.declared
        and not layer.patterned
        and layer.additional is not None
        and layer.additional.schema in (True, {})
        for layer in members.layers
    )


def _holds_others(alternative: Alternative) -> bool:
    """Whether values of an alternative may hold values for which there are schemas."""
    if alternative.values is not None:
        return False
    objects = "object" in alternative.types and alternative.members != Members()
    return objects or ("array" in alternative.types and alternative.items != Items())


def check_nesting(root: Any) -> None:
    """Check that a document is not nested so deeply that reading it would exceed the stack.

    Raises:
        SchemaError: it is.
    """
    level: list[Any] = [[root]]
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
            if isinstance(inner, (Mapping, list, tuple))
        ]
        if not level:
            return
    raise SchemaError(f"it is nested too deeply, in more than {_MAX_DEPTH - 1} lists and objects; flatten it")
