"""What a reply must be: a type, a schema, one of some choices, a pattern or a grammar → one `Constraint`.

A constraint is a grammar, which an engine follows while the reply is drawn, and a reader, which turns the
finished text into the value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from gemma4_gguf.errors import IncompleteReplyError, InvalidReplyError, SchemaError
from gemma4_gguf.grammars.convert import pattern_grammar, schema_grammar, tools_grammar, type_schema
from gemma4_gguf.grammars.ir import Grammar, Text, either
from gemma4_gguf.grammars.reader import parse_gbnf

Kind = Literal["type", "schema", "choices", "pattern", "grammar", "tools"]


@dataclass(frozen=True)
class Constraint:
    """What a reply must be, and how its text is read.

    Args:
        kind: what it was made of.
        grammar: texts that are allowed.
        read: text to value; raises ValueError for a text that is not whole.
    """

    kind: Kind
    grammar: Grammar = field(repr=False)
    read: Callable[[str], Any] = field(repr=False)

    @property
    def gbnf(self) -> str:
        """The grammar as GBNF text, which every llama.cpp app loads."""
        return self.grammar.to_text()

    def parse(self, text: str) -> Any:
        """The value of a finished reply.

        Raises:
            IncompleteReplyError: the text was cut off.
            InvalidReplyError: the text is whole, but a validator of the type refuses its value.
        """
        try:
            return self.read(text)
        except ValidationError as error:
            if all(problem["type"] != "json_invalid" for problem in error.errors()):
                raise InvalidReplyError(
                    f"the reply is well-formed, but {error.title} refuses it: {error}. Loosen the validator, "
                    "or say in the schema or the prompt what it asks for.",
                    text=text,
                ) from error
            raise _cut(text) from error
        except ValueError as error:
            raise _cut(text) from error


def as_constraint(schema: Any) -> Constraint:
    """Read what `schema=` was given.

    Args:
        schema: a Pydantic model or any type Pydantic knows; a JSON schema as a dict; a list of choices
            (texts, numbers, True, False, None); a regular expression for the whole reply, compiled or text;
            GBNF text (told by its ::=).

    Raises:
        SchemaError: it is nothing of this, or cannot be expressed; `pointer` says where.
        GrammarError: the GBNF text is malformed.
    """
    if isinstance(schema, Constraint):
        return schema
    if isinstance(schema, str) and "::=" in schema:
        return Constraint("grammar", parse_gbnf(schema), str)
    if isinstance(schema, (str, re.Pattern)):
        return _pattern(schema)
    if isinstance(schema, Mapping):
        return Constraint("schema", schema_grammar(schema), json.loads)
    if isinstance(schema, (list, tuple, set, frozenset, range)):
        return _choices(schema)
    if schema is None or isinstance(schema, (bool, int, float, bytes)):
        raise SchemaError(f"{schema!r} is no schema: give a type, a dict, a list of choices or a text")
    return Constraint("type", schema_grammar(type_schema(schema)), TypeAdapter(schema).validate_json)


def tool_constraint(tools: Sequence[Mapping[str, Any]], *, parallel: bool = True) -> Constraint:
    """A reply that is one tool call, or several, in Gemma's own notation.

    Args:
        tools: OpenAI tool dicts.
        parallel: allow several.

    Raises:
        SchemaError: a declaration is malformed or cannot be expressed.
    """
    return Constraint("tools", tools_grammar(tools, parallel=parallel), str)


def _cut(text: str) -> IncompleteReplyError:
    shown = text if len(text) <= 200 else f"{text[:100]} … {text[-100:]}"
    return IncompleteReplyError(
        f"the reply was cut off before it was complete: {shown!r}. Allow more tokens (max_tokens, n_ctx).",
        text=text,
    )


def _pattern(schema: str | re.Pattern[str]) -> Constraint:
    if isinstance(schema, re.Pattern):
        if not isinstance(schema.pattern, str) or schema.flags & ~re.UNICODE:
            raise SchemaError("a pattern must be of text and without flags; write (?:…) groups and classes")
        schema = schema.pattern
    return Constraint("pattern", pattern_grammar(schema), str)


def _choices(choices: Iterable[Any]) -> Constraint:
    values: dict[str, Any] = {}
    for choice in choices:
        if not isinstance(choice, (str, bool, int, float, type(None))):
            raise SchemaError(f"a choice is a text, a number, True, False or None; found {choice!r}")
        text = choice if isinstance(choice, str) else json.dumps(choice)
        if text in values:
            raise SchemaError(f"two choices are written {text!r}")
        values[text] = choice
    if not values:
        raise SchemaError("there are no choices")

    def read(text: str) -> Any:
        if text not in values:
            raise ValueError(text)
        return values[text]

    return Constraint("choices", Grammar({"root": either(*map(Text, values))}), read)
