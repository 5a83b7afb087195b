"""Tool declarations: functions, Pydantic types and dicts → tools as the model is shown them.

A function's signature and type hints become the JSON schema of its arguments, its docstring (Google, NumPy or
reST) their descriptions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from functools import cached_property, partial
from typing import Any, get_type_hints

import docstring_parser
from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from gemma4_gguf.errors import SchemaError, ToolError
from gemma4_gguf.grammars.sources import type_schema
from gemma4_gguf.grammars.tool_dicts import mapped, openai_forms, property_names
from gemma4_gguf.templates.tool_schemas import printable_tool
from gemma4_gguf.types import ToolLike

MAX_NAME = 128
_MAX_INLINED = 1_000  # schemas; beyond, definitions stay where they are

_EXPECTED = "expected a list of functions, Pydantic types or dicts"


@dataclass(frozen=True)
class Tool:
    """A tool as declared to the model, and how to run it.

    Args:
        name: what the model calls it.
        description: what it is for.
        parameters: JSON schema of its arguments, an object; {} for none.
        run: takes validated arguments by name and may be async; None for a tool that the caller runs.
        arguments: Pydantic type of the arguments; None checks only names.
        strict: its calls are drawn along the schema.
        response: JSON schema of what it gives back, if that is shown to the model.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    run: Callable[..., Any] | None = field(default=None, repr=False)
    arguments: type[BaseModel] | None = field(default=None, repr=False)
    strict: bool | None = None
    response: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def declaration(self) -> dict[str, Any]:
        """The tool as an OpenAI dict, its schema as it was given."""
        function: dict[str, Any] = {"name": self.name, "description": self.description}
        if self.parameters:
            function["parameters"] = self.parameters
        if self.strict is not None:
            function["strict"] = self.strict
        if self.response is not None:
            function["response"] = self.response
        return {"type": "function", "function": function}

    @cached_property
    def shown(self) -> dict[str, Any]:
        """The tool as the OpenAI dict that templates print, its schema in forms that they know."""
        return printable_tool(self.declaration)


def as_tools(tools: Sequence[ToolLike | Tool] | None) -> tuple[Tool, ...]:
    """Reads tools of any supported kind.

    Args:
        tools: Python functions, async ones too; Pydantic types; dicts in the shape of OpenAI, Anthropic, MCP,
            Ollama or Gemini, or Pydantic objects that hold the same.

    Returns:
        In the order given.

    Raises:
        ToolError: one of them cannot be declared, or two have the same name.
    """
    if tools is None:
        return ()
    if isinstance(tools, Mapping) and isinstance(tools.get("tools"), Sequence):
        raise ToolError(f'tools is a dict that holds "tools"; {_EXPECTED}: give that list.')
    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Sequence):
        raise ToolError(f"tools is a {type(tools).__name__}; {_EXPECTED}.")
    read = tuple(tool for i, given in enumerate(tools) for tool in _as_tools(given, f"tools[{i}]"))
    names = [tool.name for tool in read]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ToolError(f"Two tools have the name {doubled[0]!r}; the model could not tell them apart.")
    return read


def _as_tools(tool: Any, where: str) -> list[Tool]:
    if isinstance(tool, Tool):
        if "shown" in vars(tool):  # it was read before
            return [tool]
        openai_forms(tool.declaration, where)
        found = [tool]
    elif isinstance(tool, Mapping):
        found = [_from_form(form["function"]) for form in openai_forms(tool, where)]
    elif isinstance(tool, BaseModel):  # such as the tools that an MCP client lists
        dumped = tool.model_dump(mode="json", by_alias=True, exclude_none=True)
        found = [_from_form(form["function"]) for form in openai_forms(dumped, where)]
    elif isinstance(tool, type) and issubclass(tool, BaseModel):
        # Not inspect.getdoc: it would fall back to what BaseModel says of itself.
        description = inspect.cleandoc(tool.__doc__ or "")
        found = [Tool(tool.__name__, description, _schema(tool, where), tool, tool)]
    elif callable(tool):
        found = [_from_function(tool, where)]
    else:
        raise ToolError(
            f"{where} is a {type(tool).__name__}; expected a dict, a Pydantic type or a function."
        )
    for one in found:
        _check(one, where)
    return found


def _from_form(function: Mapping[str, Any]) -> Tool:
    return Tool(
        function["name"],
        function["description"],
        function.get("parameters", {}),
        strict=function.get("strict"),
        response=function.get("response"),
    )


def _check(tool: Tool, where: str) -> None:
    inner = tool.name.replace("_", "").replace("-", "").replace(".", "").replace("/", "").replace(":", "")
    edges = tool.name[:1] + tool.name[-1:]
    if not inner.isalnum() or any(mark in edges for mark in "./:") or len(tool.name) > MAX_NAME:
        raise ToolError(
            f"{where}: {tool.name[:200]!r} is no tool name; expected at most {MAX_NAME} letters, digits, "
            "_ or -, with . / or : between them. Declare it under another name."
        )
    for name in property_names(tool.parameters):
        if not name or name != name.strip() or any(mark in name for mark in ("<|", "|>", "\n", "\r")):
            raise ToolError(
                f"{where}: {tool.name} has an argument called {name!r}, which a call cannot carry; expected "
                "a name that is not empty, without spaces around it, line breaks, <| and |>."
            )
    _ = tool.shown  # says now what cannot be shown


# Functions


def _from_function(function: Callable[..., Any], where: str) -> Tool:
    inner, bound = _unwrapped(function, where)
    is_object = not hasattr(inner, "__name__")  # with a __call__
    name = type(inner).__name__ if is_object else inner.__name__
    called = type(inner).__call__ if is_object else inner
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise ToolError(f"{where}: {name} yields; a tool returns its result. Return a list instead.")
    said = inspect.getdoc(called) or (is_object and inspect.getdoc(inner)) or ""
    if said.startswith(f"{name}("):  # what a dataclass says of itself when nobody else does
        said = ""
    text = docstring_parser.parse(said)
    described = {parameter.arg_name: parameter.description for parameter in text.params}
    try:
        hints = get_type_hints(called, include_extras=True)
        parameters = inspect.signature(function).parameters.values()
    except (NameError, TypeError, ValueError, AttributeError) as error:
        raise ToolError(f"{where}: the type hints of {name} cannot be read: {error}.") from error
    fields: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.name in bound:  # by functools.partial: not the model's to say
            continue
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
    try:
        arguments = create_model(
            name, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False), **fields
        )
    except (PydanticUserError, PydanticSchemaGenerationError, TypeError, NameError) as error:
        raise ToolError(
            f"{where}: {name} takes what a model cannot write: {str(error).splitlines()[0]}. Use types that "
            "Pydantic can read from JSON, or bind such arguments with functools.partial."
        ) from error
    return Tool(name, _summary(text), _schema(arguments, where), function, arguments)


def _unwrapped(function: Callable[..., Any], where: str) -> tuple[Callable[..., Any], set[str]]:
    """The function inside of functools.partial, and the arguments it is bound to by name."""
    bound: set[str] = set()
    while isinstance(function, partial):
        bound |= set(function.keywords)
        function = function.func
    if isinstance(function, type) and not is_dataclass(function):
        raise ToolError(
            f"{where} is the class {function.__name__}; expected a Pydantic model or a dataclass, whose "
            "fields are the arguments, or a function."
        )
    return function, bound


def _summary(text: docstring_parser.Docstring) -> str:
    return "\n".join(part for part in (text.short_description, text.long_description) if part)


# Schemas of types


def _schema(arguments: type[BaseModel], where: str) -> dict[str, Any]:
    """Its JSON schema without titles, definitions put where they are used unless they hold themselves."""
    try:
        schema = mapped(type_schema(arguments), _untitled)
    except (SchemaError, RecursionError) as error:
        raise ToolError(f"{where}: {arguments.__name__} has no JSON schema: {error}.") from error
    schema.pop("description", None)
    return _inlined(schema)


def _untitled(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != "title"}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with its definitions where they are used; as it is, if they hold themselves or are many."""
    rest = dict(schema)
    definitions = rest.pop("$defs", {})
    count = 0

    def put(part: dict[str, Any]) -> dict[str, Any]:
        nonlocal count
        while "$ref" in part or len(part.get("allOf", ())) == 1:
            if "allOf" in part:  # older Pydantics wrap a reference that has a description
                part = {**part["allOf"][0], **{key: part[key] for key in part if key != "allOf"}}
                continue
            count += 1
            if count > _MAX_INLINED:
                raise RecursionError
            name = str(part["$ref"]).removeprefix("#/$defs/")
            if name not in definitions:  # somebody's own
                return part
            part = {**definitions[name], **{key: part[key] for key in part if key != "$ref"}}
        return part

    try:
        return mapped(rest, put)
    except RecursionError:
        return schema
