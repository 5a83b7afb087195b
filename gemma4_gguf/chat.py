"""A conversation: its messages, and turns that add to them."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from gemma4_gguf.errors import MessageError
from gemma4_gguf.generation import Generation
from gemma4_gguf.messages import Chunk, Part, Reply, ToolCall
from gemma4_gguf.options import SamplingOptions
from gemma4_gguf.requests import Message, user_message
from gemma4_gguf.settings import with_overrides

if TYPE_CHECKING:
    from gemma4_gguf.session import Session


class Chat:
    """One conversation. What it shares with the last turn is not computed again.

    Args:
        session: what answers.
        system: instructions before the conversation.
        tools: OpenAI tool dicts the model may call.
        thinking: let the model think before each answer; may be changed between turns.

    Attributes:
        messages: OpenAI-shaped dicts, oldest first, media as values; may be edited between turns.
    """

    def __init__(
        self,
        session: Session,
        *,
        system: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool = False,
    ) -> None:
        self.messages: list[Message] = []
        self.tools = tools
        self.thinking = thinking
        self._session = session
        if system is not None:
            self.messages.append({"role": "system", "content": system})

    def send(
        self,
        *parts: Part,
        image_tokens: int | None = None,
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
        image_tokens: int | None = None,
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
        return self._run(new, generation)

    def add_result(self, call: ToolCall, result: str) -> None:
        """Answers a tool call of the last reply; `send()` lets the model go on once all are answered.

        Args:
            call: from Reply.tool_calls.
            result: what the tool returned, as text or JSON.
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
