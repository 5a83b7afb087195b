"""Value limits: how long the value of a schema gets where the schema does not say.

A model that repeats itself inside a text or a list would go on until the context is full. So a text without
a length of its own ends after MAX_TEXT characters, and a reply after as many tokens as its schema sensibly
needs. What a schema says itself always counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gemma4_gguf.reply.argument_types import deref

MAX_TEXT = 2_000  # characters of a text whose length the schema leaves open
MAX_TOKENS = 4_096  # of a value that the schema leaves open
_MAX_ITEMS, _MAX_MEMBERS = 64, 16  # of lists and objects, where their number is open
_NUMBER = 24  # characters
_SLACK, _OVERHEAD = 2, 64  # for white space between tokens
_CHOICES = ("anyOf", "oneOf", "allOf")


def sensible_tokens(schema: Any) -> int:
    """Tokens that the value of a schema takes at most, if nothing goes wrong.

    Args:
        schema: a JSON schema.

    Returns:
        Some MAX_TOKENS at most, unless what the schema itself bounds may be longer.
    """
    try:
        closed, total = _Lengths(schema).of(schema)
    except RecursionError:
        closed, total = 0, MAX_TOKENS
    return max(_SLACK * closed, min(_SLACK * total, MAX_TOKENS)) + _OVERHEAD


class _Lengths:
    """Tokens of parts of a schema: of what it bounds itself, and of all with sensible lengths for the rest.

    Args:
        root: in which references are looked up.
    """

    def __init__(self, root: Any) -> None:
        self.root = root
        self.known: dict[str, tuple[int, int]] = {}

    def of(self, schema: Any) -> tuple[int, int]:
        ref = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(ref, str):
            return self.of_plain(deref(schema, self.root))
        if ref not in self.known:
            self.known[ref] = (0, MAX_TOKENS)  # of what holds itself
            self.known[ref] = self.of_plain(deref(schema, self.root))
        return self.known[ref]

    def of_plain(self, schema: Mapping[str, Any]) -> tuple[int, int]:
        if "const" in schema or isinstance(schema.get("enum"), list):
            values = [schema["const"]] if "const" in schema else schema["enum"]
            longest = max((len(json.dumps(value, default=str)) for value in values), default=0)
            return longest, longest
        parts = [part for key in _CHOICES if isinstance(schema.get(key), list) for part in schema[key]]
        lengths = [self.of(part) for part in parts]
        kinds = schema.get("type")
        for kind in kinds if isinstance(kinds, list) else [kinds]:
            if kind is not None or "properties" in schema or not parts:
                lengths.append(self.of_kind(kind, schema))
        return max(closed for closed, _ in lengths), max(total for _, total in lengths)

    def of_kind(self, kind: Any, schema: Mapping[str, Any]) -> tuple[int, int]:
        if kind == "string":
            most = schema.get("maxLength")
            return (4 * most, 4 * most) if isinstance(most, int) else (0, MAX_TEXT // 2)
        if kind in ("integer", "number", "boolean", "null"):
            return _NUMBER, _NUMBER
        if kind == "array":
            return self.of_array(schema)
        if kind == "object" or (kind is None and "properties" in schema):
            return self.of_object(schema)
        return 0, MAX_TOKENS  # anything

    def of_array(self, schema: Mapping[str, Any]) -> tuple[int, int]:
        most, first = schema.get("maxItems"), schema.get("prefixItems")
        firsts = [self.of(part) for part in first] if isinstance(first, list) else []
        closed, total = self.of(schema.get("items", {}))
        n = most if isinstance(most, int) else 0 if schema.get("items") is False else _MAX_ITEMS
        n_closed = n if isinstance(most, int) else 0
        return (
            sum(length for length, _ in firsts) + n_closed * (closed + 2),
            sum(length for _, length in firsts) + n * (total + 2),
        )

    def of_object(self, schema: Mapping[str, Any]) -> tuple[int, int]:
        properties = schema.get("properties")
        members = dict(properties) if isinstance(properties, Mapping) else {}
        lengths = [(len(str(name)) + 6, *self.of(part)) for name, part in members.items()]
        closed = sum(name + length for name, length, _ in lengths)
        total = sum(name + length for name, _, length in lengths)
        others = schema.get("additionalProperties", not members)
        if others is not False:
            total += _MAX_MEMBERS * (self.of(others)[1] + 16)
        return closed, total
