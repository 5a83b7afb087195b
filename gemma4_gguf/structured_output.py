"""Structured output: a type, a schema, choices, a pattern or a grammar → one `Constraint` on the reply.

A constraint is a grammar, which an engine follows while the reply is drawn, and a reader, which turns the
finished text into the value.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from gemma4_gguf.engine.engine import Engine
from gemma4_gguf.engine.guided_sampler import Guide, Start
from gemma4_gguf.errors import IncompleteReplyError, InvalidReplyError, SchemaError
from gemma4_gguf.grammars.compiled_patterns import expression_of
from gemma4_gguf.grammars.gbnf_reader import parse_gbnf
from gemma4_gguf.grammars.grammar import Grammar, Text, either
from gemma4_gguf.grammars.sources import pattern_grammar, schema_grammar, tools_grammar, type_schema
from gemma4_gguf.options import ToolOptions
from gemma4_gguf.reply.value_limits import MAX_TEXT, MAX_TOKENS, sensible_tokens
from gemma4_gguf.tools.choice import read_tool_choice
from gemma4_gguf.types import FinishReason, Pattern, Reply

Kind = Literal["type", "schema", "choices", "pattern", "grammar", "tools"]


@dataclass(frozen=True)
class Constraint:
    """What a reply must be, and how its text is read.

    Args:
        kind: what it was made of.
        grammar: texts that are allowed.
        read: text to value; raises ValueError for a text that is not whole.
        max_tokens: of a reply that says no limit of its own; None leaves it to the context.
    """

    kind: Kind
    grammar: Grammar = field(repr=False)
    read: Callable[[str], Any] = field(repr=False)
    max_tokens: int | None = MAX_TOKENS

    def warnings(self, text: str) -> tuple[str, ...]:
        """What there is to say about a finished reply.

        Args:
            text: what the model wrote, its thought left out.

        Returns:
            A sentence if a text in it was ended for its length, which the schema does not say.
        """
        if self.kind not in ("type", "schema") or len(text) < MAX_TEXT or not _has_longest(json.loads(text)):
            return ()
        said = f"A text was ended after {MAX_TEXT} characters"
        return (f"{said}: its schema says no length. Give one (maxLength, max_length) if it may be longer.",)

    def parse(self, text: str) -> Any:
        """The value of a finished reply.

        Args:
            text: what the model wrote, its thought left out.

        Returns:
            What the schema describes.

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
        schema: a Pydantic model or any type Pydantic knows; a JSON schema as a dict, or the text of one; a
            list of choices (texts, numbers, True, False, None), or its JSON text; a Pattern, or a compiled
            regular expression, for the whole reply; GBNF text (told by its ::=).

    Returns:
        The constraint; the given one if it is one already.

    Raises:
        SchemaError: it is nothing of this, or cannot be expressed; `pointer` says where.
        GrammarError: the GBNF text is malformed.
    """
    if isinstance(schema, Constraint):
        return schema
    if isinstance(schema, str):
        return _from_text(schema)
    if isinstance(schema, re.Pattern):
        return Constraint("pattern", pattern_grammar(_characters(expression_of(schema))), str)
    if isinstance(schema, Pattern):
        if not isinstance(schema.regex, str):
            raise SchemaError(f"Pattern({schema.regex!r}) is no text; give re.compile(…) itself")
        return Constraint("pattern", pattern_grammar(_characters(schema.regex)), str)
    if isinstance(schema, Mapping):
        return _from_schema("schema", schema, json.loads)
    if isinstance(schema, (list, tuple, set, frozenset, range)):
        return _choices(schema)
    if isinstance(schema, PurePath):
        raise SchemaError(f"{str(schema)!r} is the name of a file; give what it holds: Path(…).read_text()")
    if schema is None or isinstance(schema, (bool, int, float, bytes, bytearray)):
        raise SchemaError(f"{schema!r} is no schema: give {_WAYS}")
    return _from_schema("type", type_schema(schema), TypeAdapter(schema).validate_json)


_WAYS = "a type, a JSON schema (dict or text), a list of choices, Pattern('…'), re.compile('…') or GBNF text"


def _characters(text: str) -> str:
    """A text of whole characters, as a reply is one."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SchemaError(
            f"half a surrogate pair stands in {_shortened(text)!r}; no reply holds one"
        ) from error
    return text


def _from_text(text: str) -> Constraint:
    """JSON text is what it says, and GBNF has its ::=; nothing else is certain."""
    _characters(text)
    try:
        value = json.loads(text.removeprefix("\ufeff"))
    except RecursionError as error:
        raise SchemaError("the JSON text is nested too deeply") from error
    except ValueError as error:
        if "::=" in text:
            return Constraint("grammar", parse_gbnf(text), str)
        looks = f" It is no JSON either: {error}." if text.lstrip().startswith(("{", "[")) else ""
        said = _shortened(text)
        raise SchemaError(
            f"{said!r} may be one word or a regular expression.{looks} Give [{said!r}] for a choice, "
            f"Pattern({said!r}) or re.compile(…) for a pattern, or {_WAYS}"
        ) from error
    if not isinstance(value, (dict, list)):
        raise SchemaError(f"the JSON text {_shortened(text)!r} is no schema and no list of choices")
    return as_constraint(value)


def _from_schema(kind: Kind, schema: Mapping[str, Any], read: Callable[[str], Any]) -> Constraint:
    return Constraint(kind, schema_grammar(schema, longest_text=MAX_TEXT), read, sensible_tokens(schema))


def tool_constraint(tools: Sequence[Mapping[str, Any]], *, parallel: bool = True) -> Constraint:
    """A reply that is one tool call, or several, in Gemma's own notation.

    Args:
        tools: OpenAI tool dicts.
        parallel: allow several.

    Returns:
        The constraint.

    Raises:
        SchemaError: a declaration is malformed or cannot be expressed.
    """
    return Constraint("tools", tools_grammar(tools, parallel=parallel), str)


def _cut(text: str) -> IncompleteReplyError:
    return IncompleteReplyError(
        f"the reply was cut off before it was complete: {_shortened(text)!r}. Allow more tokens "
        "(max_tokens, n_ctx).",
        text=text,
    )


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:100]} … {text[-100:]}"


def _has_longest(value: Any) -> bool:
    """Whether a text of the greatest length that is given by default is anywhere in a value."""
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            left += part.values()
        elif isinstance(part, list):
            left += part
        elif isinstance(part, str) and len(part) == MAX_TEXT:
            return True
    return False


def _choices(choices: Iterable[Any]) -> Constraint:
    values: dict[str, Any] = {}
    for choice in choices:
        if not isinstance(choice, (str, bool, int, float, type(None))):
            raise SchemaError(f"a choice is a text, a number, True, False or None; found {choice!r}")
        if isinstance(choice, float) and not math.isfinite(choice):
            raise SchemaError(f"a choice that is a number is finite; found {choice!r}")
        text = _characters(choice) if isinstance(choice, str) else json.dumps(choice)
        if text in values:
            raise SchemaError(f"two choices are written {text!r}")
        values[text] = choice
    if not values:
        raise SchemaError("there are no choices")

    def read(text: str) -> Any:
        if text not in values:
            raise ValueError(text)
        return values[text]

    return Constraint("choices", Grammar({"root": either(*map(Text, values))}), read, max_tokens=None)


@dataclass(frozen=True)
class ReplyRules:
    """What one reply must be.

    Args:
        value: what its text must be; None leaves it free.
        calls: what its tool calls must be; None leaves them free.
        must_call: it has to call.
        may_call: it may call.
        parallel: it may call more than once.
    """

    value: Constraint | None = None
    calls: Constraint | None = None
    must_call: bool = False
    may_call: bool = True
    parallel: bool = True

    def guide(self, engine: Engine, *, thinking: bool, in_thought: bool) -> Guide | None:
        """What a sampler follows.

        Args:
            engine: whose vocabulary is drawn from.
            thinking: a thought may come first.
            in_thought: the prompt ends inside a thought.

        Returns:
            None where nothing has to be followed.

        Raises:
            GrammarError: the grammar cannot be followed.
        """
        grammar, calls, start = self._parts("after_thought" if thinking else "now")
        if grammar is None:
            return None
        # Calls are written with marker tokens, and whoever writes a grammar may mean them; a choice or the
        # name of a field that looks like one is text.
        literal = self.value is not None and not self.must_call and self.value.kind != "grammar"
        return engine.guide(grammar, literal=literal, calls=calls, start=start, in_thought=in_thought)

    def _parts(self, start: Start) -> tuple[Grammar | None, Grammar | None, Start]:
        calls = None if self.calls is None else self.calls.grammar
        if self.must_call:
            return calls, None, start
        if self.value is not None:
            return self.value.grammar, calls, start
        return calls, None, "at_call"

    def check(
        self,
        reply: Reply,
        guide: Guide,
        finish: FinishReason,
        *,
        stopped: bool = False,
        limit: int | None = None,
    ) -> Any:
        """Reads a reply that has ended.

        Args:
            reply: as parsed.
            guide: that was followed.
            finish: why drawing ended.
            stopped: a stop text ended its text, which is shorter than what was drawn.
            limit: the tokens after which it was ended, where none were asked for; None if it was not.

        Returns:
            The value; None for a reply that calls tools, or that no schema was given for.

        Raises:
            IncompleteReplyError: it was cut off.
            InvalidReplyError: a validator of the type refuses it.
        """
        if self.value is None and not self.must_call:
            return None
        if stopped:
            whole = guide.accepts(reply.text)
        else:
            whole = guide.finished if finish == "length" else guide.complete
        if not whole:
            raise cut(reply, limit)
        if reply.tool_calls or self.value is None:
            return None
        return self.value.parse(reply.text if stopped else guide.text)


def reply_rules(
    schema: Any, tools: Sequence[Mapping[str, Any]] | None, options: ToolOptions
) -> ReplyRules | None:
    """Reads what a reply was asked to be.

    Args:
        schema: as for `as_constraint`; None leaves the text free.
        tools: OpenAI tool dicts.
        options: how tools are called.

    Returns:
        None where the reply is free.

    Raises:
        SchemaError: the schema, or the parameters of a tool, cannot be expressed.
        GrammarError: GBNF text is malformed.
        OptionError: tool_choice is no choice, or names a tool that there is not.
    """
    choice = read_tool_choice(options.tool_choice, [_name(tool) for tool in tools or ()])
    value = None if schema is None else as_constraint(schema)
    if not tools or choice.mode == "none":
        return ReplyRules(value, may_call=False) if value is not None or tools else None
    must_call = choice.mode == "required"
    parallel = options.parallel_tool_calls and choice.parallel
    strict = must_call or options.strict or choice.strict or choice.names is not None or value is not None
    if not strict and not any(map(_is_strict, tools)):
        return None if parallel else ReplyRules(parallel=False)
    called = [tool if strict or _is_strict(tool) else _loosened(tool) for tool in tools]
    calls = tool_constraint([tool for tool in called if choice.allows(_name(tool))], parallel=parallel)
    return ReplyRules(value, calls, must_call=must_call, parallel=parallel)


def cut(reply: Reply, limit: int | None = None) -> IncompleteReplyError:
    """The error of a reply that ended too early.

    Args:
        reply: what there is of it.
        limit: the tokens that its schema sensibly needs, where these ran out; None if not.

    Returns:
        The error to raise.
    """
    ran_out = reply.finish_reason == "length"
    why = "Allow more tokens (max_tokens, n_ctx)." if ran_out else "A stop text ended it; choose another."
    if limit is not None:
        why = (
            f"That is {limit} tokens, more than its schema should need: the model may be repeating itself. "
            "Set max_tokens, or give texts and lists a length (maxLength, maxItems)."
        )
    in_thought = ran_out and not reply.text and reply.thinking
    where = "in its thought" if in_thought else f"at {_shortened(reply.text)!r}"
    return IncompleteReplyError(f"The reply was cut off {where}. {why}", text=reply.text, reply=reply)


def _name(tool: Mapping[str, Any]) -> str:
    return tool["function"]["name"]


def _is_strict(tool: Mapping[str, Any]) -> bool:
    return tool["function"].get("strict") is True


def _loosened(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tool beside strict ones: drawn along its schema, too, unless that cannot be expressed."""
    try:
        tools_grammar([tool])
    except SchemaError:
        free = {"type": "object", "additionalProperties": True}
        return {**tool, "function": {**tool["function"], "parameters": free}}
    return tool
