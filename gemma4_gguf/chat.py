"""A conversation: its messages, and turns that add to them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from gemma4_gguf.errors import MessageError
from gemma4_gguf.generation import Generation
from gemma4_gguf.messages import Chunk, Part, Reply, ToolCall
from gemma4_gguf.options import ImageTokens, SamplingOptions
from gemma4_gguf.requests import Message, user_message
from gemma4_gguf.settings import with_overrides
from gemma4_gguf.toolrun import MAX_ROUNDS, TIMEOUT_S, OnResult, run_until_done
from gemma4_gguf.tools import ToolLike, as_tools

if TYPE_CHECKING:
    from gemma4_gguf.session import Session


class Chat:
    """One conversation. What it shares with the last turn is not computed again.

    Args:
        session: what answers.
        system: instructions before the conversation.
        tools: what the model may call: OpenAI dicts, Pydantic types, Python functions.
        thinking: let the model think before each answer; may be changed between turns.

    Attributes:
        messages: OpenAI-shaped dicts, oldest first, media as values; may be edited between turns.
    """

    def __init__(
        self,
        session: Session,
        *,
        system: str | None = None,
        tools: Sequence[ToolLike] | None = None,
        thinking: bool = False,
    ) -> None:
        as_tools(tools)
        self.messages: list[Message] = []
        self.tools = tools
        self.thinking = thinking
        self._session = session
        if system is not None:
            self.messages.append({"role": "system", "content": system})

    def send(
        self,
        *parts: Part,
        image_tokens: ImageTokens | None = None,
        sampling: SamplingOptions | None = None,
        **overrides: Any,
    ) -> Reply:
        """Says something and waits for the reply.

        Args:
            parts: as for Session.ask; nothing after tool results, to let the model go on.
            image_tokens: budget per picture of this turn and earlier ones that name none themselves.
            sampling: how tokens are drawn; None takes what the file recommends.
            overrides: single fields of SamplingOptions by name.

        Returns:
            The reply, which `messages` now ends with.

        Raises:
            MessageError: there is nothing to say, or media that this model cannot take.
            ContextFullError: the conversation is longer than the context. `messages` is as before.
        """
        reply = Reply()
        for chunk in self.stream(*parts, image_tokens=image_tokens, sampling=sampling, **overrides):
            reply = chunk.reply or reply
        return reply

    def stream(
        self,
        *parts: Part,
        image_tokens: ImageTokens | None = None,
        sampling: SamplingOptions | None = None,
        **overrides: Any,
    ) -> Generator[Chunk, None, None]:
        """Says something and yields the reply as it comes: `send`, piece by piece.

        A stream that is closed early leaves what was said so far in `messages`.
        """
        new = self._new_messages(parts)
        generation = self._session.generate(
            [*self.messages, *new],
            tools=self.tools,
            thinking=self.thinking,
            image_tokens=image_tokens,
            sampling=with_overrides(sampling or self._session.sampling, overrides),
        )
        generation.owner = self
        return self._run(new, generation)

    def run(
        self,
        *parts: Part,
        max_rounds: int = MAX_ROUNDS,
        timeout_s: float | None = TIMEOUT_S,
        on_result: OnResult | None = None,
        **options: Any,
    ) -> Reply:
        """Says something and runs the tools that the model calls, until it calls none.

        Calls run one after the other. An exception, a timeout or wrong arguments become a result that the
        model reads; a call that is repeated unchanged is not run again.

        Args:
            parts: as for `send`.
            max_rounds: replies at most, at least 1.
            timeout_s: seconds one call may take; None waits for ever.
            on_result: called with every ToolCall and its ToolResult.
            options: as for `send`: image_tokens, sampling and single fields of it.

        Returns:
            The last reply; with tool calls only if one has no function to run, or the run was stopped.

        Raises:
            ToolError: a tool cannot be declared.
            OptionError: an option is out of range.
        """
        return run_until_done(
            self, parts, max_rounds=max_rounds, timeout_s=timeout_s, on_result=on_result, options=options
        )

    def add_result(self, call: ToolCall, result: Any) -> None:
        """Answers a tool call of the last reply; `send()` lets the model go on once all are answered.

        Args:
            call: from Reply.tool_calls.
            result: what the tool returned: text or JSON, or a list of texts, pictures and sounds.
        """
        self.messages.append({"role": "tool", "tool_call_id": call.id, "name": call.name, "content": result})

    def fork(self) -> Chat:
        """A second conversation that starts with the messages of this one."""
        other = Chat(self._session, tools=self.tools, thinking=self.thinking)
        other.messages = list(self.messages)
        return other

    def _new_messages(self, parts: Sequence[Part]) -> list[Message]:
        if parts:
            return [user_message(parts)]
        if not self.messages or self.messages[-1]["role"] not in ("tool", "user"):
            raise MessageError("There is nothing to say: give at least one text, picture or sound.")
        return []

    def _run(self, new: list[Message], generation: Generation) -> Generator[Chunk, None, None]:
        try:
            with closing(generation.stream()) as chunks:
                yield from (chunk for chunk in chunks if chunk.kind != "end")
        except (GeneratorExit, KeyboardInterrupt):
            self.messages += [*new, as_message(generation.reply)]
            raise
        self.messages += [*new, as_message(generation.reply)]
        yield Chunk("end", reply=generation.reply)


def as_message(reply: Reply) -> Message:
    """A reply as the assistant message that goes into the history."""
    message: Message = {"role": "assistant", "content": reply.text}
    if reply.thinking:
        message["reasoning_content"] = reply.thinking
    if reply.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in reply.tool_calls
        ]
    return message
