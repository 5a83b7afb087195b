"""Grammar constructors: a JSON schema, a Python type, a pattern or tool declarations → a grammar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gemma4_gguf.errors import SchemaError, ToolError
from gemma4_gguf.grammars.automata import TooLarge, build, to_node
from gemma4_gguf.grammars.grammar import Grammar, Node, Ref, Repeat, Text, either, seq
from gemma4_gguf.grammars.notation import JsonNotation, ToolCallNotation
from gemma4_gguf.grammars.regex import parse_pattern
from gemma4_gguf.grammars.schema_compiler import Compiler
from gemma4_gguf.grammars.schema_strings import has_nullable_repeat, split_long_repeats
from gemma4_gguf.grammars.tool_dicts import openai_tools
from gemma4_gguf.special_tokens import CALL_CLOSE, CALL_OPEN

_DECIMAL = r"^-?(?:0|[1-9]\d*)(?:\.\d+)?$"
_DECLARING = {"$ref", "allOf", "anyOf", "oneOf", "patternProperties", "additionalProperties"}
_DECIMAL_LIMITS = ("multiple_of", "le", "ge", "lt", "gt", "max_digits", "decimal_places")


def from_schema(json_schema: Mapping[str, Any] | bool) -> str:
    """A JSON schema as GBNF: JSON texts that satisfy it, members in declared order.

    Never wider than the schema. Narrower where a language model profits: members that are not declared appear
    only if the schema speaks of them, integers have no point, space is bounded.

    Args:
        json_schema: draft 2020-12; of older drafts, what still has a meaning there.

    Returns:
        GBNF text.

    Raises:
        SchemaError: the schema is malformed, contradicts itself or cannot be expressed; `pointer` says where.
    """
    return schema_grammar(json_schema).to_text()


def from_type(type_: Any) -> str:
    """A Pydantic model, dataclass, TypedDict, enum or any other type Pydantic knows, as GBNF.

    Raises:
        SchemaError: Pydantic has no schema for it, or the schema cannot be expressed.
    """
    return from_schema(type_schema(type_))


def from_tools(tools: Sequence[Mapping[str, Any]], *, parallel: bool = True) -> str:
    """Calls of declared tools in Gemma's own notation, as GBNF.

    Names, argument names, types and required arguments are right by construction.

    Args:
        tools: dicts in the shape of OpenAI, Anthropic, MCP, Ollama or Gemini.
        parallel: several calls may follow each other.

    Returns:
        GBNF text.

    Raises:
        SchemaError: a declaration is malformed or cannot be expressed; `pointer` starts with its number.
    """
    return tools_grammar(tools, parallel=parallel).to_text()


def schema_grammar(json_schema: Mapping[str, Any] | bool) -> Grammar:
    """As `from_schema`, as a `Grammar`."""
    if not isinstance(json_schema, (Mapping, bool)):
        raise SchemaError(f"a schema is an object or a boolean, not a {type(json_schema).__name__}")
    return Compiler(json_schema, JsonNotation()).document()


def type_schema(type_: Any) -> dict[str, Any]:
    """The JSON schema that Pydantic writes for a type, decimals as JSON numbers or texts of digits.

    Raises:
        SchemaError: Pydantic has none.
    """
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
    from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
    from pydantic_core import SchemaError as CoreSchemaError

    class Schemas(GenerateJsonSchema):
        """Decimals as numbers or as texts of digits; Pydantic's schema offers texts it would refuse."""

        ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - as in Pydantic

        def decimal_schema(self, schema: Any) -> JsonSchemaValue:
            number = next(
                (s for s in super().decimal_schema(schema).get("anyOf", ()) if s.get("type") == "number"),
                {"type": "number"},
            )
            limited = any(schema.get(limit) is not None for limit in _DECIMAL_LIMITS)
            return number if limited else {"anyOf": [number, {"type": "string", "pattern": _DECIMAL}]}

    try:
        return TypeAdapter(type_).json_schema(schema_generator=Schemas)
    except (
        *(PydanticUserError, PydanticSchemaGenerationError, CoreSchemaError),
        *(AttributeError, TypeError),
    ) as error:
        raise SchemaError(f"Pydantic has no JSON schema for {type_!r}: {error}") from error


def pattern_grammar(pattern: str) -> Grammar:
    """Texts that match a regular expression as a whole.

    Raises:
        SchemaError: it is malformed, not regular, or matches nothing.
    """
    parsed = parse_pattern(pattern, full=True)
    grammar = Grammar()
    node: Node | None = parsed.node
    if parsed.within or parsed.outside or has_nullable_repeat(parsed.node):
        try:
            automaton = build([parsed.node, *parsed.within], parsed.outside)
            node = to_node(automaton, grammar, "part") if automaton.transitions else None
        except TooLarge:
            raise SchemaError(f"the pattern {pattern!r} needs too large a grammar") from None
    if node is None:
        raise SchemaError(f"nothing matches the pattern {pattern!r}")
    grammar.rules = {"root": split_long_repeats(node, grammar)} | grammar.rules
    return grammar


def tools_grammar(tools: Sequence[Mapping[str, Any]], *, parallel: bool = True) -> Grammar:
    """As `from_tools`, as a `Grammar`."""
    try:
        declared = [_function(tool) for tool in openai_tools(tools)]
    except ToolError as error:
        raise SchemaError(str(error)) from error
    if not declared:
        raise SchemaError("there are no tools to call")
    root = {"tools": [parameters for _, parameters in declared]}
    compiler = Compiler(root, ToolCallNotation())
    calls: list[Node] = []
    for i, (name, parameters) in enumerate(declared):
        arguments = Compiler(parameters, ToolCallNotation())
        arguments.grammar = compiler.grammar
        try:
            node = arguments.document_node(f"{name}-arguments")
        except SchemaError as error:
            raise SchemaError(error.reason, pointer=f"/{i}/function/parameters{error.pointer}") from error
        calls.append(seq(Text(name), node))
    body = seq(Text(f"{CALL_OPEN}call:"), either(*calls), Text(CALL_CLOSE))
    call = compiler.grammar.add("one-call", body)
    return compiler.finish(Repeat(call, 1, None) if parallel else Ref(call.name))


def _function(tool: Mapping[str, Any]) -> tuple[str, Any]:
    """Name and parameter schema of a tool in OpenAI's form."""
    function = tool["function"]
    parameters = function.get("parameters") or {"type": "object"}
    if not parameters.get("properties") and not _DECLARING & set(parameters):
        # A tool that declares no arguments takes none.
        parameters = {**parameters, "additionalProperties": False}
    return function["name"], parameters
