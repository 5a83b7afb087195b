"""Tool dicts: tools as OpenAI, Anthropic, MCP, Ollama, Gemini and Bedrock write them → OpenAI's form.

What comes out is {"type": "function", "function": {name, description, parameters, strict, response}}, plain
JSON, the last three only where they were given. Schemas stay as they are, except that Gemini's spelling
("STRING", counts as texts) becomes JSON Schema's. A key that carries content and is not known is refused.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from gemma4_gguf.errors import ToolError
from gemma4_gguf.types import holds

# Where a schema holds schemas: one, a list of them, or one under each name.
_ONE: tuple[str, ...] = (
    "items",
    "additionalItems",
    "additionalProperties",
    "contains",
    "propertyNames",
    "not",
    "if",
    "then",
)
_ONE += ("else", "unevaluatedItems", "unevaluatedProperties", "contentSchema")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")

_GROUPS = ("functionDeclarations", "function_declarations")  # Gemini puts several functions into one tool
_SCHEMA_KEYS = ["parameters", "input_schema", "inputSchema", "parametersJsonSchema", "parameters_json_schema"]
_READ = {"type", "name", "description", "strict", "response", "input_examples", *_SCHEMA_KEYS}
# What is for the program around the model, or tells of the result, which the model sees when it comes.
_IGNORED = {"annotations", "title", "icons", "_meta", "meta", "execution", "cache_control", "defer_loading"}
_IGNORED |= {"allowed_callers", "eager_input_streaming", "behavior", "id", "metadata", "tags", "version"}
_IGNORED |= {"outputSchema", "output_schema", "responseJsonSchema", "response_json_schema", "return"}
# Words of MCP, Anthropic and Bedrock, whose tools always have a schema.
_NEEDING_SCHEMA = {"annotations", "icons", "_meta", "outputSchema", "execution", "cache_control"}
_NEEDING_SCHEMA |= {"defer_loading", "allowed_callers", "input_schema", "inputSchema"}
_TYPES = ("string", "number", "integer", "boolean", "array", "object", "null")
_MAY_BE_NULL = ("const", "default", "example")
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_MAX_VALUES = 300_000
_EXPECTED = '{"type": "function", "function": {"name": …, "description": …, "parameters": {…}}}'


def openai_tools(tools: Iterable[Any], where: str = "tools") -> list[dict[str, Any]]:
    """Reads tool dicts of any known shape.

    Args:
        tools: one dict a tool; Gemini's may hold several functions.
        where: what messages call the list.

    Returns:
        OpenAI tool dicts, in the order given.

    Raises:
        ToolError: one is of no known shape, is a tool that its provider runs, or holds what is not known.
    """
    return [read for i, tool in enumerate(tools) for read in openai_forms(tool, f"{where}[{i}]")]


def openai_forms(tool: Any, where: str) -> list[dict[str, Any]]:
    """As `openai_tools`, for one dict."""
    if not isinstance(tool, Mapping):
        raise ToolError(f"{where} is a {type(tool).__name__}; expected a dict like {_EXPECTED}.")
    tool = _plain(tool, where)
    for key in _GROUPS:
        if tool.get(key) is not None:
            _refuse_unknown(tool, {key}, where)
            listed = tool[key]
            if not isinstance(listed, list):
                raise ToolError(f"{where}.{key} is a {type(listed).__name__}; expected a list of functions.")
            return [_form(function, f"{where}.{key}[{i}]") for i, function in enumerate(listed)]
    if isinstance(tool.get("toolSpec"), dict):  # Bedrock
        _refuse_unknown(tool, {"toolSpec"}, where)
        spec = tool["toolSpec"]
        schema = spec.get("inputSchema")
        inner = schema.get("json") if isinstance(schema, dict) and set(schema) == {"json"} else schema
        return [_form({**spec, "inputSchema": inner}, f"{where}.toolSpec")]
    kind = tool.get("type")
    if "function" in tool:
        if kind not in (None, "function"):
            raise ToolError(f'{where} is of type {kind!r}; expected "function".')
        _refuse_unknown(tool, {"type", "function", "strict"}, where)
        function = tool["function"]
        if tool.get("strict") is not None and isinstance(function, dict):
            function = {"strict": tool["strict"], **function}
        return [_form(function, f"{where}.function")]
    return [_form(tool, where)]


def _form(function: Any, where: str) -> dict[str, Any]:
    """One function, whose keys are not wrapped in anything any more."""
    if not isinstance(function, dict):
        raise ToolError(f"{where} is a {type(function).__name__}; expected {_EXPECTED}.")
    _check_kind(function, where)
    name, description = function.get("name"), function.get("description")
    if not isinstance(name, str):
        has = ", ".join(map(repr, function)) or "nothing"
        raise ToolError(f"{where} names no function, it has {has}; expected {_EXPECTED}.")
    if description is not None and not isinstance(description, str):
        raise ToolError(f"{where}.description is a {type(description).__name__}; expected text.")
    _refuse_unknown(function, _READ, where)
    said = [description] if description else []
    said += [
        f"Example: {json.dumps(one, ensure_ascii=False)}" for one in function.get("input_examples") or ()
    ]
    read: dict[str, Any] = {"name": name, "description": "\n".join(said)}
    schema = _arguments(function, where)
    if schema:
        read["parameters"] = schema
    strict = function.get("strict")
    if strict is not None:
        if not isinstance(strict, bool):
            raise ToolError(f"{where}.strict is {strict!r}; expected true or false.")
        read["strict"] = strict
    response = function.get("response")
    if response is not None:
        if not isinstance(response, dict):
            raise ToolError(f"{where}.response is a {type(response).__name__}; expected a JSON schema.")
        read["response"] = mapped(response, _json_spelling)
    return {"type": "function", "function": read}


def _check_kind(function: Mapping[str, Any], where: str) -> None:
    """Refuses tools that are no functions of the caller: a provider runs them, or they take free text."""
    kind = function.get("type")
    if kind is None or kind == "function" or (kind == "custom" and "input_schema" in function):
        return
    if kind == "object":
        raise ToolError(f"{where} is a JSON schema and not a tool; put it into {_EXPECTED}.")
    raise ToolError(
        f"{where} is a tool of type {kind!r}, which only its provider can run. Declare a function of "
        f"your own: {_EXPECTED}."
    )


def _arguments(function: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    found = [key for key in _SCHEMA_KEYS if function.get(key) is not None]
    if len(found) > 1:
        raise ToolError(f"{where} has {' and '.join(found)}; expected one schema of the arguments.")
    if not found:
        # OpenAI and Gemini say that a function without a schema takes no arguments, the others ask for one.
        if not _NEEDING_SCHEMA & set(function):
            return None
        raise ToolError(
            f"{where} ({function['name']}) has no schema of its arguments; a tool without any says "
            '"parameters": {"type": "object", "properties": {}}.'
        )
    schema = function[found[0]]
    if not isinstance(schema, dict):
        raise ToolError(
            f"{where}.{found[0]} is a {type(schema).__name__}; expected a JSON schema, as a dict."
        )
    return mapped(schema, _json_spelling)


def _refuse_unknown(given: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = [key for key, value in given.items() if key not in known | _IGNORED and holds(value)]
    if unknown:
        raise ToolError(
            f"{where} has {', '.join(map(repr, unknown))}, which is not known here and would be lost; "
            f"expected {_EXPECTED}."
        )


def _plain(value: Any, where: str) -> Any:
    """A copy in plain JSON."""
    try:
        return json.loads(json.dumps(_dicts(value, itertools.count()), allow_nan=False))
    except RecursionError as error:
        raise ToolError(f"{where} is nested too deeply, or holds itself.") from error
    except (TypeError, ValueError) as error:
        raise ToolError(f"{where} is no plain JSON: {error}. Expected {_EXPECTED}.") from error


def _dicts(value: Any, count: Iterator[int]) -> Any:
    if next(count) > _MAX_VALUES:  # parts that are used twice, inside of each other, double each time
        raise ValueError(f"it holds more than {_MAX_VALUES:,} values")
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"the key {wrong[0]!r} is no text")
        return {key: _dicts(item, count) for key, item in value.items()}
    return [_dicts(item, count) for item in value] if isinstance(value, (list, tuple)) else value


def _json_spelling(schema: dict[str, Any]) -> dict[str, Any]:
    """Gemini writes types in capitals and counts as texts, PHP an empty object as a list, many write null."""
    schema = {key: value for key, value in schema.items() if value is not None or key in _MAY_BE_NULL}
    for word in _NAMED:
        if schema.get(word) == []:
            schema[word] = {}
    kind = schema.get("type")
    if kind == "TYPE_UNSPECIFIED":
        del schema["type"]
    elif isinstance(kind, str):
        schema["type"] = _in_json(kind)
    elif isinstance(kind, list):
        schema["type"] = list(map(_in_json, kind))
    for word in _COUNTS:
        if isinstance(schema.get(word), str) and schema[word].isdecimal():
            schema[word] = int(schema[word])
    return schema


def _in_json(kind: Any) -> Any:
    return kind.lower() if isinstance(kind, str) and kind.isupper() and kind.lower() in _TYPES else kind


def mapped(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """A copy of a schema in which every schema was changed, from the outermost inwards.

    Args:
        schema: a JSON schema.
        change: takes a shallow copy and returns it changed.

    Returns:
        The copy; what is no dict is returned as it is.
    """
    if not isinstance(schema, Mapping):
        return schema
    out = change(dict(schema))
    for word, value in out.items():
        if word in _NAMED and isinstance(value, Mapping):
            out[word] = {name: mapped(part, change) for name, part in value.items()}
        elif word in _LISTED and isinstance(value, list):
            out[word] = [mapped(part, change) for part in value]
        elif word in _ONE:
            out[word] = mapped(value, change)
    return out


def property_names(schema: Any) -> set[str]:
    """Names of the properties of a schema, at any depth.

    Args:
        schema: a JSON schema.

    Returns:
        The names.
    """
    names: set[str] = set()

    def collect(part: dict[str, Any]) -> dict[str, Any]:
        if isinstance(part.get("properties"), Mapping):
            names.update(part["properties"])
        return part

    mapped(schema, collect)
    return names
