"""Schema keyword reader: the keywords of one schema, except for those that combine schemas.

Keywords that a grammar cannot express are refused by name. Annotations and words that JSON Schema does not
know say nothing about values and are passed over, and so are formats that are not known here, with a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from gemma4_gguf.errors import SchemaError
from gemma4_gguf.grammars.lengths import least_of
from gemma4_gguf.grammars.schema_formats import FORMATS, PLAIN_FORMATS
from gemma4_gguf.grammars.schema_numbers import Bounds
from gemma4_gguf.grammars.schema_shapes import (
    ALL_TYPES,
    Alternative,
    Items,
    Layer,
    Members,
    Subschema,
    shared_values,
)

_log = logging.getLogger(__name__)

_TYPES = ALL_TYPES | {"integer"}
_FAMILIES = {
    "object": (
        "properties",
        "required",
        "additionalProperties",
        "patternProperties",
        "propertyNames",
        "minProperties",
        "maxProperties",
    ),
    "array": ("items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems", "contains"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}


def read(subschema: Subschema, *, over: bool = False) -> list[Alternative]:
    """Read a schema's own keywords.

    Args:
        subschema: the schema.
        over: take it as wide as any reader may: limits say nothing about values of other types, formats
            nothing at all. For what is to be left out of another schema, which must not get too wide.

    Returns:
        One alternative; two when null is allowed besides; none when enum and const exclude each other.

    Raises:
        SchemaError: a keyword is malformed or cannot be expressed.
    """
    schema, pointer = subschema.schema, subschema.pointer
    types = _read_types(schema, pointer, over)
    values = None
    if "enum" in schema:
        if not isinstance(schema["enum"], list) or not schema["enum"]:
            raise SchemaError("enum must list values", pointer=f"{pointer}/enum")
        values = tuple(schema["enum"])
    if "const" in schema:
        values = (schema["const"],) if values is None else shared_values([schema["const"]], values)
    patterns, longest = _read_patterns(schema, pointer, over)
    alternative = Alternative(
        pointer,
        types,
        values,
        least_length=_count(schema, "minLength", pointer) or 0,
        most_length=least_of(_count(schema, "maxLength", pointer), longest),
        patterns=patterns,
        bounds=_read_bounds(schema, pointer),
        steps=_read_step(schema, pointer),
        items=_read_items(schema, pointer),
        members=_read_members(schema, pointer),
    )
    found = [alternative] if values != () else []
    if schema.get("nullable") is True and "null" not in types:
        found.append(Alternative(pointer, frozenset({"null"})))
    return found


def _read_types(schema: Mapping[str, Any], pointer: str, over: bool) -> frozenset[str]:
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        unknown = [kind for kind in kinds if not isinstance(kind, str) or kind not in _TYPES]
        if unknown or not kinds:
            raise SchemaError(f"unknown type {unknown}; known: {sorted(_TYPES)}", pointer=f"{pointer}/type")
        return frozenset(kinds) - ({"integer"} if "number" in kinds else set())
    if over or "enum" in schema or "const" in schema:
        return ALL_TYPES
    # Without a type, limits mean the type they are for.
    implied = frozenset(kind for kind, words in _FAMILIES.items() if any(word in schema for word in words))
    return implied or ALL_TYPES


def _count(schema: Mapping[str, Any], word: str, pointer: str) -> int | None:
    if word not in schema:
        return None
    value: Any = schema[word]
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or value < 0:
        raise SchemaError(f"{word} must be a count, not {_shown(value)}", pointer=f"{pointer}/{word}")
    return int(value)


def _shown(value: Any) -> str:
    """A value for a message. Python writes no integer of more than 4300 digits."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _read_patterns(
    schema: Mapping[str, Any], pointer: str, over: bool
) -> tuple[tuple[tuple[str, str], ...], int | None]:
    """Patterns with their places, that of a format too, and the most characters that the format allows."""
    found, longest = [], None
    if "pattern" in schema:
        if not isinstance(schema["pattern"], str):
            raise SchemaError("pattern must be text", pointer=f"{pointer}/pattern")
        found.append((schema["pattern"], f"{pointer}/pattern"))
    name = schema.get("format")
    if isinstance(name, str) and name not in PLAIN_FORMATS and not over and _may_be_text(schema):
        if name in FORMATS:
            pattern, longest = FORMATS[name]
            found.append((pattern, f"{pointer}/format"))
        else:
            _log.warning("The format %r at %s is not known; it asks for nothing.", name, pointer or "/")
    return tuple(found), longest


def _may_be_text(schema: Mapping[str, Any]) -> bool:
    """Formats of numbers (int32, double) say nothing about texts."""
    kind = schema.get("type", "string")
    return "string" in kind if isinstance(kind, list) else kind == "string"


def _read_step(schema: Mapping[str, Any], pointer: str) -> tuple[Decimal, ...]:
    value = schema.get("multipleOf")
    if value is None:
        return ()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        shown = _shown(value)
        raise SchemaError(
            f"multipleOf must be a number above 0, not {shown}", pointer=f"{pointer}/multipleOf"
        )
    return (_decimal(value, "multipleOf", pointer),)


def _decimal(value: float, word: str, pointer: str) -> Decimal:
    try:
        return Decimal(repr(value))
    except ValueError as error:  # Python writes no integer of more than 4300 digits
        raise SchemaError(f"{word} has too many digits", pointer=f"{pointer}/{word}") from error


_NO_BOUNDS = (float("inf"), float("-inf"))


def _read_bounds(schema: Mapping[str, Any], pointer: str) -> Bounds:
    bounds = Bounds()
    for word, is_open, side in (
        ("minimum", False, "low"),
        ("maximum", False, "high"),
        ("exclusiveMinimum", True, "low"),
        ("exclusiveMaximum", True, "high"),
    ):
        value = schema.get(word)
        if value is None or value is False:
            continue
        if value is True:  # draft 4
            other = "minimum" if side == "low" else "maximum"
            value = schema.get(other)
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or value in _NO_BOUNDS
            or value != value
        ):
            raise SchemaError(f"{word} must be a number, not {_shown(value)}", pointer=f"{pointer}/{word}")
        number = _decimal(value, word, pointer)
        bounds = bounds.intersect(
            Bounds(low=number, open_low=is_open) if side == "low" else Bounds(high=number, open_high=is_open)
        )
    return bounds


def _read_items(schema: Mapping[str, Any], pointer: str) -> Items:
    items, first, rest_word = schema.get("items", True), schema.get("prefixItems"), "items"
    if isinstance(items, list):  # before draft 2020-12
        first, items, rest_word = items, schema.get("additionalItems", True), "additionalItems"
    first_word = "items" if rest_word == "additionalItems" else "prefixItems"
    if first is not None and not isinstance(first, list):
        raise SchemaError("prefixItems must list schemas", pointer=f"{pointer}/prefixItems")
    places = tuple((Subschema(s, f"{pointer}/{first_word}/{i}"),) for i, s in enumerate(first or ()))
    rest = None if items is False else () if items is True else (Subschema(items, f"{pointer}/{rest_word}"),)
    least, most = _count(schema, "minItems", pointer) or 0, _count(schema, "maxItems", pointer)
    contains: tuple[tuple[Subschema, int, int | None], ...] = ()
    if "contains" in schema:
        fewest = _count(schema, "minContains", pointer)
        limits = (1 if fewest is None else fewest, _count(schema, "maxContains", pointer))
        contains = ((Subschema(schema["contains"], f"{pointer}/contains"), *limits),)
    return Items(places, rest, least, most, schema.get("uniqueItems") is True, contains)


def _read_members(schema: Mapping[str, Any], pointer: str) -> Members:
    required = schema.get("required", [])
    if isinstance(required, bool):  # draft 3
        required = []
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise SchemaError("required must list names", pointer=f"{pointer}/required")
    names = schema.get("propertyNames")
    layer = _read_layer(schema, pointer)
    return Members(
        () if layer == Layer() else (layer,),
        tuple(dict.fromkeys(required)),
        frozenset(),
        () if names in (None, True) else (Subschema(names, f"{pointer}/propertyNames"),),
        _count(schema, "minProperties", pointer) or 0,
        _count(schema, "maxProperties", pointer),
    )


def _read_layer(schema: Mapping[str, Any], pointer: str) -> Layer:
    properties, patterned = schema.get("properties", {}), schema.get("patternProperties", {})
    for word, value in (("properties", properties), ("patternProperties", patterned)):
        if not isinstance(value, Mapping):
            raise SchemaError(f"{word} must be an object", pointer=f"{pointer}/{word}")
    more = schema.get("additionalProperties", True)
    where = f"{pointer}/patternProperties"
    return Layer(
        {str(n): Subschema(s, f"{pointer}/properties/{escape(str(n))}") for n, s in properties.items()},
        tuple((str(p), where, Subschema(s, f"{where}/{escape(str(p))}")) for p, s in patterned.items()),
        None
        if more is False
        else Subschema(more, f"{pointer}/additionalProperties" if more is not True else ""),
        "additionalProperties" in schema,
    )


def escape(name: str) -> str:
    """A name as a step of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")
