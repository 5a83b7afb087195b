"""What a reply must be → one `ReplyRules`: the schema of its text, and whether and how tools are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemma4_gguf.engine.guided_sampler import Guide, Start, token_table
from gemma4_gguf.engine.model import Model
from gemma4_gguf.errors import IncompleteReplyError, OptionError
from gemma4_gguf.grammars.ir import Grammar
from gemma4_gguf.options import ToolOptions
from gemma4_gguf.special_tokens import Markers
from gemma4_gguf.structured import Constraint, as_constraint, tool_constraint
from gemma4_gguf.types import FinishReason, Reply

TOOL_CHOICES = ("auto", "none", "required")


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

    def guide(self, model: Model, markers: Markers, *, thinking: bool, in_thought: bool) -> Guide | None:
        """What a sampler follows.

        Args:
            model: whose vocabulary is drawn from.
            markers: of that vocabulary.
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
        return Guide(
            token_table(model),
            grammar,
            markers,
            literal=literal,
            calls=calls,
            start=start,
            in_thought=in_thought,
        )

    def _parts(self, start: Start) -> tuple[Grammar | None, Grammar | None, Start]:
        calls = None if self.calls is None else self.calls.grammar
        if self.must_call:
            return calls, None, start
        if self.value is not None:
            return self.value.grammar, calls, start
        return calls, None, "at_call"

    def check(self, reply: Reply, guide: Guide, finish: FinishReason) -> Any:
        """Reads a reply that has ended.

        Args:
            reply: as parsed.
            guide: that was followed.
            finish: why drawing ended.

        Returns:
            The value; None for a reply that calls tools, or that no schema was given for.

        Raises:
            IncompleteReplyError: it was cut off.
            InvalidReplyError: a validator of the type refuses it.
        """
        if self.value is None and not self.must_call:
            return None
        if not (guide.finished if finish == "length" else guide.complete):
            raise cut(reply)
        if reply.tool_calls or self.value is None:
            return None
        return self.value.parse(guide.text)


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
    choice = _choice(options.tool_choice, tools)
    value = None if schema is None else as_constraint(schema)
    if not tools or choice == "none":
        return ReplyRules(value, may_call=False) if value is not None or tools else None
    must_call = choice in ("required", *_names(tools)) and choice != "auto"
    parallel = options.parallel_tool_calls
    strict = must_call or options.strict or value is not None or any(map(_is_strict, tools))
    if not strict:
        return None if parallel else ReplyRules(parallel=False)
    called = [tool for tool in tools if choice in (*TOOL_CHOICES, tool["function"]["name"])]
    calls = tool_constraint(called, parallel=parallel)
    return ReplyRules(value, calls, must_call=must_call, parallel=parallel)


def cut(reply: Reply) -> IncompleteReplyError:
    """The error of a reply that ended too early."""
    ran_out = reply.finish_reason == "length"
    why = "Allow more tokens (max_tokens, n_ctx)." if ran_out else "A stop text ended it; choose another."
    shown = reply.text if len(reply.text) <= 200 else f"{reply.text[:100]} … {reply.text[-100:]}"
    where = "in its thought" if ran_out and not reply.text and reply.thinking else f"at {shown!r}"
    return IncompleteReplyError(f"The reply was cut off {where}. {why}", text=reply.text, reply=reply)


def _choice(choice: Any, tools: Sequence[Mapping[str, Any]] | None) -> str:
    """The word, or the name of the one tool, from the word, the name or OpenAI's dict."""
    names = _names(tools)
    if isinstance(choice, Mapping):
        function = choice.get("function", choice)
        choice = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(choice, str) or choice not in (*TOOL_CHOICES, *names):
        known = ", ".join(names) or "none is given"
        raise OptionError(f"tool_choice is {choice!r}; expected auto, none, required or a tool ({known}).")
    if choice == "required" and not names:
        raise OptionError("tool_choice is 'required', but there are no tools.")
    return choice


def _names(tools: Sequence[Mapping[str, Any]] | None) -> list[str]:
    return [tool["function"]["name"] for tool in tools or ()]


def _is_strict(tool: Mapping[str, Any]) -> bool:
    return tool["function"].get("strict") is True
