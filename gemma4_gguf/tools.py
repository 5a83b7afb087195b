"""Tools a model may call: functions, Pydantic types or OpenAI dicts → declarations, calls → results.

A function's signature and type hints become the JSON schema of its arguments, its docstring (Google, NumPy or
reST) their descriptions. Arguments are validated and converted by Pydantic before the function sees them.
"""

from __future__ import annotations

import inspect
import json
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import docstring_parser
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from gemma4_gguf.errors import ToolError
from gemma4_gguf.types import Media, ToolCall, ToolLike

MAX_NAME = 64


@dataclass(frozen=True)
class Tool:
    """A tool as declared to the model, and how to run it.

    Args:
        name: what the model calls it.
        description: what it is for.
        parameters: JSON schema of its arguments, an object.
        run: takes validated arguments by name; None for a tool that the caller runs.
        arguments: Pydantic type of the arguments; None checks nothing.
        given: the OpenAI dict that declared it, which is handed on as it is.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    run: Callable[..., Any] | None = field(default=None, repr=False)
    arguments: type[BaseModel] | None = field(default=None, repr=False)
    given: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def declaration(self) -> dict[str, Any]:
        """The tool as the OpenAI dict that templates read."""
        if self.given is not None:
            return dict(self.given)
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class ToolResult:
    """What a call gave back.

    Args:
        content: text or JSON for the model, or a list of texts and media.
        failed: the tool raised, timed out, or was called wrongly; `content` says how.
    """

    content: Any
    failed: bool = False


def as_tools(tools: Sequence[ToolLike | Tool] | None) -> tuple[Tool, ...]:
    """Reads tools of any supported kind.

    Args:
        tools: OpenAI dicts, Pydantic types, Python functions.

    Returns:
        In the order given.

    Raises:
        ToolError: one of them cannot be declared, or two have the same name.
    """
    if isinstance(tools, (str, Mapping)) or not isinstance(tools or (), Sequence):
        raise ToolError(f"tools is a {type(tools).__name__}; expected a list of dicts, types or functions.")
    read = tuple(_as_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools or ()))
    names = [tool.name for tool in read]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ToolError(f"Two tools have the name {doubled[0]!r}; the model could not tell them apart.")
    return read


def run_call(tools: Sequence[Tool], call: ToolCall, *, timeout_s: float | None = None) -> ToolResult:
    """Runs one call. Whatever goes wrong becomes a result that the model can read and react to.

    Args:
        tools: the declared tools.
        call: what the model asked for.
        timeout_s: seconds to wait, > 0; None waits for ever. A function that is still running then is left
            alone in its thread, since Python cannot stop it.

    Returns:
        What the function returned, or what went wrong.

    Raises:
        ToolError: the tool has no function to run.
    """
    tool = next((tool for tool in tools if tool.name == call.name), None)
    if tool is None:
        known = ", ".join(tool.name for tool in tools) or "none"
        return _failure(f"There is no tool {call.name!r}; there are: {known}.")
    if tool.run is None:
        raise ToolError(f"{call.name!r} was declared without a function. Run it yourself and add its result.")
    try:
        arguments = _validated(tool, call.arguments)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg']}" for e in error.errors()
        )
        return _failure(f"Wrong arguments: {wrong}.")
    return _waited(tool.run, arguments, timeout_s)


def _as_tool(tool: Any, where: str) -> Tool:
    if isinstance(tool, Tool):
        return tool
    if isinstance(tool, Mapping):
        return _from_dict(tool, where)
    if isinstance(tool, type) and issubclass(tool, BaseModel):
        return _checked(Tool(tool.__name__, inspect.getdoc(tool) or "", _schema(tool), tool, tool), where)
    if callable(tool):
        return _checked(_from_function(tool, where), where)
    raise ToolError(f"{where} is a {type(tool).__name__}; expected a dict, a Pydantic type or a function.")


def _from_dict(tool: Mapping[str, Any], where: str) -> Tool:
    function = tool.get("function", tool)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ToolError(
            f'{where} names no function; expected {{"type": "function", "function": {{"name": …}}}}.'
        )
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(parameters, Mapping):
        raise ToolError(f"{where}.function.parameters is no JSON schema of an object.")
    given = tool if "function" in tool else None
    description = function.get("description") or ""
    return _checked(Tool(function["name"], description, dict(parameters), given=given), where)


def _from_function(function: Callable[..., Any], where: str) -> Tool:
    name = getattr(function, "__name__", type(function).__name__)
    text = docstring_parser.parse(inspect.getdoc(function) or "")
    described = {parameter.arg_name: parameter.description for parameter in text.params}
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise ToolError(f"{where}: the type hints of {name} cannot be read: {error}.") from error
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise ToolError(f"{where}: {name} takes {parameter}; a model can only give arguments by name.")
        if parameter.name not in hints:
            raise ToolError(f"{where}: {name} says no type for {parameter.name!r}. Add a type hint.")
        default = ... if parameter.default is parameter.empty else parameter.default
        # A field cannot begin with an underscore or hide a method of BaseModel: the alias carries the name.
        fields[f"field_{len(fields)}"] = (
            hints[parameter.name],
            Field(default, alias=parameter.name, description=described.get(parameter.name)),
        )
    arguments = create_model(
        name, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False), **fields
    )
    return Tool(name, _summary(text), _schema(arguments), function, arguments)


def _summary(text: docstring_parser.Docstring) -> str:
    return "\n".join(part for part in (text.short_description, text.long_description) if part)


def _checked(tool: Tool, where: str) -> Tool:
    allowed = tool.name.replace("_", "").replace("-", "").replace(".", "")
    if not allowed.isalnum() or len(tool.name) > MAX_NAME:
        raise ToolError(
            f"{where}: {tool.name!r} is no tool name; expected at most {MAX_NAME} letters, digits, _ - or ."
        )
    return tool


def _schema(arguments: type[BaseModel]) -> dict[str, Any]:
    """Its JSON schema as templates read it: definitions put where they are used, no titles."""
    schema = arguments.model_json_schema()
    schema.pop("description", None)
    return _inlined(schema, schema.pop("$defs", {}), ())


def _inlined(
    schema: Any, definitions: Mapping[str, Any], inside: tuple[str, ...], named: bool = False
) -> Any:
    if isinstance(schema, list):
        return [_inlined(item, definitions, inside) for item in schema]
    if not isinstance(schema, dict):
        return schema
    reference = schema.get("$ref")
    if isinstance(reference, str) and not named:
        name = reference.rpartition("/")[2]
        if name in inside:
            raise ToolError(
                f"The arguments contain {name}, which contains itself; a tool cannot declare that."
            )
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return _inlined({**definitions[name], **rest}, definitions, (*inside, name))
    return {
        key: _inlined(value, definitions, inside, named=key == "properties" and not named)
        for key, value in schema.items()
        if named or key != "title"
    }


def _validated(tool: Tool, arguments: Mapping[str, Any]) -> dict[str, Any]:
    if tool.arguments is None:
        return dict(arguments)
    value = tool.arguments.model_validate(arguments)
    names = type(value).model_fields
    return {(info.alias or key): getattr(value, key) for key, info in names.items()}


def _waited(run: Callable[..., Any], arguments: dict[str, Any], timeout_s: float | None) -> ToolResult:
    answer: queue.SimpleQueue[ToolResult | BaseException] = queue.SimpleQueue()

    def work() -> None:
        try:
            answer.put(ToolResult(_readable(run(**arguments))))
        except Exception as error:  # the model is told, whatever it was
            answer.put(_failure(f"{type(error).__name__}: {error}"))
        except BaseException as error:
            answer.put(error)

    if timeout_s is None:
        work()
    else:
        threading.Thread(target=work, daemon=True).start()
    try:
        result = answer.get(timeout=timeout_s)
    except queue.Empty:
        return _failure(f"No answer within {timeout_s:g} s.")
    if isinstance(result, BaseException):
        raise result
    return result


def _readable(value: Any) -> Any:
    """What a function returned, as the model can read it: text, JSON, or texts and media in order."""
    if isinstance(value, Media):
        return [value]
    if isinstance(value, (list, tuple)) and any(isinstance(item, Media) for item in value):
        return [item if isinstance(item, Media) else _text(item) for item in value]
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(TypeAdapter(Any).dump_python(value, mode="json"), ensure_ascii=False)


def _failure(message: str) -> ToolResult:
    return ToolResult(json.dumps({"error": message}, ensure_ascii=False), failed=True)
