"""Argument types: values and the JSON schema they should fit, sub-schemas, and gentle conversion.

Used where a model wrote an argument in another type than declared ("5" for 5) and only one reading is
possible.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from gemma4_gguf.special_tokens import QUOTE

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_DIGITS = "[0-9]+(?:_[0-9]+)*"
_LOOSE_NUMBER = re.compile(rf"[+-]?(?:{_DIGITS}(\.(?:{_DIGITS})?)?|(\.{_DIGITS}))([eE][+-]?[0-9]+)?")
_LONGEST_NUMBER = 300  # characters
_MAX_STEPS = 8  # from reference to reference, and from alternative to alternative
_WORDS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}


def literal(word: str) -> tuple[bool, Any]:
    """Reads a number or a constant.

    Args:
        word: without spaces around it.

    Returns:
        Whether it is one, and its value.
    """
    if word in _WORDS:
        return True, _WORDS[word]
    match = _NUMBER.fullmatch(word)
    if match is None or len(word) > _LONGEST_NUMBER:
        return False, None
    if match.group(1) is None and match.group(2) is None:
        return True, int(word)
    number = float(word)
    return math.isfinite(number), number


def fit(value: Any, schema: Any, notes: list[str], root: Any = None) -> Any:
    """Bring values to the type their schema asks for, where only one reading is possible.

    Also takes string delimiters off that stand around a whole key or text (<|"|>Oslo<|"|>).

    Args:
        value: what was read.
        schema: JSON schema of it.
        notes: a sentence is added for each change.
        root: schema in which "#/…" references are looked up.

    Returns:
        A value of the same shape.
    """
    root = schema if root is None else root
    schema = deref(schema, root)
    if isinstance(value, dict):
        schema = alternative(schema, "object", root)
        return {bare(k): fit(v, sub(schema, bare(k), root), notes, root) for k, v in value.items()}
    if isinstance(value, list):
        items = alternative(schema, "array", root).get("items", {})
        return [fit(v, items, notes, root) for v in value]
    if isinstance(value, str) and bare(value) != value:
        notes.append("delimiters around a text were taken off")
        value = bare(value)
    wanted = types_of(schema, root)
    if not wanted or _type_of(value) & wanted:
        return value
    out = _convert(value, wanted)
    if out is not value:
        notes.append(f"{value!r} was read as {out!r}")
    return out


def _convert(value: Any, wanted: set[str]) -> Any:
    if isinstance(value, str):
        word = value.strip()
        if wanted & {"integer", "number"}:
            number = _number(word)
            if isinstance(number, float) and "integer" in wanted and number.is_integer():
                number = int(number)
            if number is not None and _type_of(number) & wanted:
                return number
        if "boolean" in wanted and word.lower() in ("true", "false"):
            return word.lower() == "true"
        known, out = literal(word)
        if not known and wanted & {"array", "object"}:
            known, out = parse_json(value)
        return out if known and _type_of(out) & wanted else value
    if "integer" in wanted and isinstance(value, float) and value.is_integer():
        return int(value)
    if "string" in wanted and isinstance(value, (bool, int, float)):
        return json.dumps(value)
    return value


def _number(word: str) -> int | float | None:
    """A number in any spelling that means one: 108. and .5 and +3 and 007 and 1_000."""
    match = _LOOSE_NUMBER.fullmatch(word)
    if match is None or len(word) > _LONGEST_NUMBER:
        return None
    if not any(match.groups()):
        return int(word)
    number = float(word)
    return number if math.isfinite(number) else None


def deref(schema: Any, root: Any) -> dict[str, Any]:
    """Follows local references ("#/…") of a schema.

    Args:
        schema: with or without "$ref".
        root: schema in which they are looked up.

    Returns:
        The schema they lead to; {} for anything else.
    """
    for _ in range(_MAX_STEPS):
        if not isinstance(schema, Mapping):
            return {}
        ref = schema.get("$ref")
        if not isinstance(ref, str) or not ref.startswith("#"):
            return dict(schema)
        schema = root
        for step in unquote(ref[1:]).split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            schema = schema.get(key) if isinstance(schema, Mapping) else None
    return {}


def types_of(schema: Mapping[str, Any], root: Any = None, *, steps: int = _MAX_STEPS) -> set[str]:
    """JSON types that a schema allows.

    Args:
        schema: a JSON schema.
        root: schema in which references of its alternatives are looked up.
        steps: alternatives inside alternatives that are looked at.

    Returns:
        Their names; empty when anything goes.
    """
    for parts in _alternatives(schema, root):
        each = [types_of(part, root, steps=steps - 1) for part in parts if steps > 0]
        return set().union(*each) if each and all(each) else set()
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if "type" not in schema and isinstance(values, list):
        return set().union(*map(_type_of, values))
    kind = schema.get("type")
    kinds = {kind} if isinstance(kind, str) else set(kind) if isinstance(kind, list) else set()
    kinds = {str(k).lower() for k in kinds}
    if kinds and schema.get("nullable") is True:
        kinds.add("null")
    return kinds


def alternative(schema: Any, kind: str, root: Any) -> dict[str, Any]:
    """The part of a schema that a value of one JSON type has to fit.

    Args:
        schema: a JSON schema, maybe with alternatives (anyOf, oneOf).
        kind: such as "object".
        root: schema in which references are looked up.

    Returns:
        The only alternative that allows the type, with references followed; the schema itself where there
        are none, or several.
    """
    schema = deref(schema, root)
    for _ in range(_MAX_STEPS):
        parts = next(_alternatives(schema, root), [])
        fitting = [part for part in parts if kind in types_of(part, root)]
        if len(fitting) != 1:
            break
        schema = fitting[0]
    return schema


def _alternatives(schema: Mapping[str, Any], root: Any) -> Iterator[list[dict[str, Any]]]:
    for word in ("anyOf", "oneOf"):
        if isinstance(schema.get(word), list):
            yield [deref(part, root) for part in schema[word]]


def _type_of(value: Any) -> set[str]:
    if value is None:
        return {"null"}
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int):
        return {"integer", "number"}
    names = {float: "number", str: "string", list: "array", dict: "object"}
    return {names.get(type(value), "")}


def allows(schema: Mapping[str, Any], kind: str) -> bool:
    """Whether a value of a JSON type may stand somewhere.

    Args:
        schema: JSON schema of the place.
        kind: such as "object".

    Returns:
        True where the schema says nothing.
    """
    wanted = types_of(schema)
    return not wanted or kind in wanted


def only_text(schema: Mapping[str, Any]) -> bool:
    """Whether a bare word can only be text somewhere.

    Args:
        schema: JSON schema of the place.

    Returns:
        False where the schema says nothing.
    """
    return bool(wanted := types_of(schema)) and not wanted & {"integer", "number", "boolean", "null"}


def properties(schema: Any) -> dict[str, Any]:
    """Declared properties of a schema.

    Args:
        schema: a JSON schema, or anything else.

    Returns:
        Schema by name, in declared order; empty without any.
    """
    found = schema.get("properties") if isinstance(schema, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}


def sub(schema: Any, key: str, root: Any) -> dict[str, Any]:
    """Schema of one property.

    Args:
        schema: JSON schema of the object.
        key: name of the property.
        root: schema in which references are looked up.

    Returns:
        That of all undeclared ones where it is not declared; {} when nothing is said.
    """
    declared = properties(schema)
    if key not in declared and isinstance(schema, Mapping):
        return deref(schema.get("additionalProperties"), root)
    return deref(declared.get(key), root)


def parse_json(text: str) -> tuple[bool, Any]:
    """Reads JSON; NaN and Infinity are none.

    Args:
        text: a whole JSON text.

    Returns:
        Whether it is JSON, and its value.
    """
    try:
        return True, json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False, None


def _refuse(word: str) -> Any:
    raise ValueError(word)


def bare(text: str) -> str:
    """Takes string delimiters off that stand around a text.

    Args:
        text: of any length.

    Returns:
        The text between them, or as it was.
    """
    if text.startswith(QUOTE) and text.endswith(QUOTE) and len(text) >= 2 * len(QUOTE):
        return text[len(QUOTE) : -len(QUOTE)]
    return text
