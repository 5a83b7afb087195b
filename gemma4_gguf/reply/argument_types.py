"""Argument types: values and the JSON schema they should fit, sub-schemas, and gentle conversion.

Used where a model wrote an argument in another type than declared ("5" for 5) and only one reading is
possible.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from gemma4_gguf.special_tokens import QUOTE

_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
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
    if match is None or len(word) > 300:
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
        return {bare(k): fit(v, sub(schema, bare(k), root), notes, root) for k, v in value.items()}
    if isinstance(value, list):
        items = schema.get("items", {})
        return [fit(v, items, notes, root) for v in value]
    if isinstance(value, str) and bare(value) != value:
        notes.append("delimiters around a text were taken off")
        value = bare(value)
    wanted = types_of(schema)
    if not wanted or _type_of(value) & wanted:
        return value
    out = _convert(value, wanted)
    if out is not value:
        notes.append(f"{value!r} was read as {out!r}")
    return out


def _convert(value: Any, wanted: set[str]) -> Any:
    if isinstance(value, str):
        word = value.strip()
        if "integer" in wanted or "number" in wanted:
            word = re.sub(r"^([+-]?)0+(?=\d)", r"\1", word).removeprefix("+")
        known, out = literal(word)
        if not known and wanted & {"array", "object"}:
            known, out = parse_json(value)
        return out if known and _type_of(out) & wanted else value
    if "integer" in wanted and isinstance(value, float) and value.is_integer():
        return int(value)
    if "string" in wanted and isinstance(value, (bool, int, float)):
        return json.dumps(value)
    return value


def deref(schema: Any, root: Any) -> dict[str, Any]:
    """Follows local references ("#/…") of a schema.

    Args:
        schema: with or without "$ref".
        root: schema in which they are looked up.

    Returns:
        The schema they lead to; {} for anything else.
    """
    for _ in range(8):
        if not isinstance(schema, Mapping):
            return {}
        ref = schema.get("$ref")
        if not isinstance(ref, str) or not ref.startswith("#"):
            return dict(schema)
        schema = root
        for step in ref[1:].split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            schema = schema.get(key) if isinstance(schema, Mapping) else None
    return {}


def types_of(schema: Mapping[str, Any]) -> set[str]:
    """JSON types that a schema allows.

    Args:
        schema: a JSON schema.

    Returns:
        Their names; empty when anything goes.
    """
    for word in ("anyOf", "oneOf"):
        if isinstance(schema.get(word), list):
            parts = [types_of(part) for part in schema[word] if isinstance(part, Mapping)]
            return set().union(*parts) if parts and all(parts) else set()
    kind = schema.get("type")
    kinds = {kind} if isinstance(kind, str) else set(kind) if isinstance(kind, list) else set()
    kinds = {str(k).lower() for k in kinds}
    if kinds and schema.get("nullable") is True:
        kinds.add("null")
    return kinds


def _type_of(value: Any) -> set[str]:
    if value is None:
        return {"null"}
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int):
        return {"integer", "number"}
    names = {float: "number", str: "string", list: "array", dict: "object"}
    return {names[type(value)]}


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
        {} when it says nothing.
    """
    return deref(properties(schema).get(key), root)


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
