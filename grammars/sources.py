"""Grammar constructors: a JSON schema, a Python type, a pattern or tool declarations → a grammar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gemma4_gguf.errors import SchemaError, ToolError
from gemma4_gguf.grammars.automata import is_empty
from gemma4_gguf.grammars.gbnf_writer import to_gbnf
from gemma4_gguf.grammars.grammar import Grammar, Meet, Node, Ref, Repeat, Text, either, seq, uncollected
from gemma4_gguf.grammars.notation import JSON, TOOL_CALL
from gemma4_gguf.grammars.regex import parse_pattern
from gemma4_gguf.grammars.schema_compiler import Compiler
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
    return to_gbnf(schema_grammar(json_schema, meets=False))


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
    return to_gbnf(tools_grammar(tools, parallel=parallel, meets=False))


@uncollected()
def schema_grammar(
    json_schema: Mapping[str, Any] | bool, *, meets: bool = True, longest_text: int | None = None
) -> Grammar:
    """As `from_schema`, as a `Grammar`.

    Args:
        json_schema: as there.
        meets: for llguidance: exact and without GBNF text.
        longest_text: characters of a text for which the schema says neither a length nor a pattern, at most.
    """
    if not isinstance(json_schema, (Mapping, bool)):
        raise SchemaError(f"a schema is an object or a boolean, not a {type(json_schema).__name__}")
    return Compiler(json_schema, JSON, meets=meets, longest_text=longest_text).document()


def type_schema(type_: Any) -> dict[str, Any]:
    """The JSON schema that Pydantic writes for a type, decimals as JSON numbers or texts of digits.

    Raises:
        SchemaError: Pydantic has none.
    """
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
    from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

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
    except (PydanticUserError, PydanticSchemaGenerationError, AttributeError, TypeError) as error:
        raise SchemaError(f"Pydantic has no JSON schema for {type_!r}: {error}") from error


def pattern_grammar(pattern: str) -> Grammar:
    """Texts that match a regular expression as a whole.

    Raises:
        SchemaError: it is malformed, not regular, or matches nothing.
    """
    parsed = parse_pattern(pattern, full=True)
    within = (parsed.node, *parsed.within)
    if is_empty(within, parsed.outside, 0, None):
        raise SchemaError(f"nothing matches the pattern {pattern!r}")
    alone = len(within) == 1 and not parsed.outside
    return Grammar({"root": parsed.node if alone else Meet(within, parsed.outside)}, meets=True)


@uncollected()
def tools_grammar(
    tools: Sequence[Mapping[str, Any]], *, parallel: bool = True, meets: bool = True
) -> Grammar:
    """As `from_tools`, as a `Grammar`; with `meets` for llguidance, exact and without GBNF text."""
    try:
        declared = [_function(tool) for tool in openai_tools(tools)]
    except ToolError as error:
        raise SchemaError(str(error)) from error
    if not declared:
        raise SchemaError("there are no tools to call")
    compiler = Compiler(True, TOOL_CALL, meets=meets)
    calls: list[Node] = []
    for i, (name, parameters) in enumerate(declared):
        try:
            arguments = Compiler(parameters, TOOL_CALL, grammar=compiler.grammar)
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
