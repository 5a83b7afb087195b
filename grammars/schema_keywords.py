"""Schema keyword reader: the keywords of one schema, except for $ref, allOf, anyOf and oneOf.

Keywords that a grammar cannot express are refused by name. Annotations and words that JSON Schema does not
know say nothing about values and are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from gemma4_gguf.errors import SchemaError
from gemma4_gguf.grammars.schema_formats import FORMATS, PLAIN_FORMATS
from gemma4_gguf.grammars.schema_numbers import Bounds
from gemma4_gguf.grammars.schema_shapes import ALL_TYPES, Alternative, Items, Members, Subschema, json_equal

UNSUPPORTED = (
    "not",
    "if",
    "then",
    "else",
    "multipleOf",
    "contains",
    "minContains",
    "maxContains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$recursiveRef",
)
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
    "array": ("items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}


def read(subschema: Subschema) -> list[Alternative]:
    """Read a schema's own keywords.

    Returns:
        One alternative; two when null is allowed besides; none when enum and const exclude each other.

    Raises:
        SchemaError: a keyword is malformed or cannot be expressed.
    """
    schema, pointer = subschema.schema, subschema.pointer
    for word in UNSUPPORTED:
        if word in schema:
            raise SchemaError(f"{word} cannot be expressed as a grammar", pointer=f"{pointer}/{word}")
    types = _read_types(schema, pointer)
    values = None
    if "enum" in schema:
        if not isinstance(schema["enum"], list) or not schema["enum"]:
            raise SchemaError("enum must list values", pointer=f"{pointer}/enum")
        values = tuple(schema["enum"])
    if "const" in schema:
        const = schema["const"]
        values = (const,) if values is None or any(json_equal(const, v) for v in values) else ()
    alternative = Alternative(
        pointer,
        types,
        values,
        _count(schema, "minLength", pointer) or 0,
        _count(schema, "maxLength", pointer),
        _read_patterns(schema, pointer),
        _read_bounds(schema, pointer),
        _read_items(schema, pointer),
        _read_members(schema, pointer),
    )
    found = [alternative] if values != () else []
    if schema.get("nullable") is True and "null" not in types:
        found.append(Alternative(pointer, frozenset({"null"})))
    return found


def _read_types(schema: Mapping[str, Any], pointer: str) -> frozenset[str]:
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        unknown = [kind for kind in kinds if not isinstance(kind, str) or kind not in _TYPES]
        if unknown or not kinds:
            raise SchemaError(f"unknown type {unknown}; known: {sorted(_TYPES)}", pointer=f"{pointer}/type")
        return frozenset(kinds) - ({"integer"} if "number" in kinds else set())
    # Without a type, limits mean the type they are for.
    implied = frozenset(kind for kind, words in _FAMILIES.items() if any(word in schema for word in words))
    return implied or ALL_TYPES


def _count(schema: Mapping[str, Any], word: str, pointer: str) -> int | None:
    value = schema.get(word)
    if value is None and word not in schema:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value) or value < 0:
        raise SchemaError(f"{word} must be a count, not {value!r}", pointer=f"{pointer}/{word}")
    return int(value)


def _read_patterns(schema: Mapping[str, Any], pointer: str) -> tuple[tuple[str, str], ...]:
    found = []
    if "pattern" in schema:
        if not isinstance(schema["pattern"], str):
            raise SchemaError("pattern must be text", pointer=f"{pointer}/pattern")
        found.append((schema["pattern"], f"{pointer}/pattern"))
    name = schema.get("format")
    if isinstance(name, str) and name not in PLAIN_FORMATS and _may_be_text(schema):
        if name not in FORMATS:
            known = ", ".join(sorted(FORMATS))
            raise SchemaError(f"unknown format {name!r}; known: {known}", pointer=f"{pointer}/format")
        found.append((f"^(?:{FORMATS[name]})$", f"{pointer}/format"))
    return tuple(found)


def _may_be_text(schema: Mapping[str, Any]) -> bool:
    """Formats of numbers (int32, double) say nothing about texts."""
    kind = schema.get("type", "string")
    return "string" in kind if isinstance(kind, list) else kind == "string"


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
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
            raise SchemaError(f"{word} must be a number, not {value!r}", pointer=f"{pointer}/{word}")
        try:
            number = Decimal(repr(value))
        except ValueError as error:  # Python writes no integer of more than 4300 digits
            raise SchemaError(f"{word} has too many digits", pointer=f"{pointer}/{word}") from error
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
    return Items(places, rest, least, most, schema.get("uniqueItems") is True)


def _read_members(schema: Mapping[str, Any], pointer: str) -> Members:
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, Mapping):
        raise SchemaError("properties must be an object", pointer=f"{pointer}/properties")
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise SchemaError("required must list names", pointer=f"{pointer}/required")
    more = schema.get("additionalProperties", True)
    additional = (
        None
        if more is False
        else ()
        if more is True
        else (Subschema(more, f"{pointer}/additionalProperties"),)
    )
    names = schema.get("propertyNames")
    patterned = schema.get("patternProperties", {})
    return Members(
        {n: (Subschema(s, f"{pointer}/properties/{_escape(n)}"),) for n, s in properties.items()},
        tuple(dict.fromkeys(required)),
        additional,
        "additionalProperties" in schema,
        () if names in (None, True) else (Subschema(names, f"{pointer}/propertyNames"),),
        tuple(
            (p, f"{pointer}/patternProperties", Subschema(s, f"{pointer}/patternProperties/{_escape(p)}"))
            for p, s in patterned.items()
        ),
        _count(schema, "minProperties", pointer) or 0,
        _count(schema, "maxProperties", pointer),
    )


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
