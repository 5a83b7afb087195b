"""Conversations of a session: new ones, and saved ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from gemma4_gguf.chat import Chat
from gemma4_gguf.chat_file import load_chat
from gemma4_gguf.tools import ToolLike
from gemma4_gguf.truncation import OnFull

if TYPE_CHECKING:
    from gemma4_gguf.session import Session


class Talking:
    """The part of a Session that keeps conversations."""

    def chat(
        self,
        *,
        system: str | None = None,
        tools: Sequence[ToolLike] | None = None,
        thinking: bool = False,
        on_full: OnFull = "error",
    ) -> Chat:
        """Starts a conversation that remembers.

        Any number of them live in one session. What they hold stays in the cache for the last n_seq of them;
        the others are decoded again when they go on.

        Args:
            system: instructions before the conversation.
            tools: what the model may call: OpenAI dicts, Pydantic types, Python functions.
            thinking: let the model think before each answer.
            on_full: "error", or "drop_oldest" to leave out whole old turns when the context is full.
        """
        return Chat(cast("Session", self), system=system, tools=tools, thinking=thinking, on_full=on_full)

    def load_chat(
        self, path: str | Path, *, tools: Sequence[ToolLike] | None = None, state: bool = True
    ) -> Chat:
        """Brings a conversation back that `Chat.save` wrote, without decoding it again.

        Args:
            path: the file.
            tools: as for `chat`; Python functions must be given again. None takes the saved declarations.
            state: False takes only what was said, for another model or another version of llama.cpp.

        Raises:
            SavedChatError: the file is damaged, of another version of the format, or of another model.
            ContextFullError: it holds more tokens than the context.
            EngineError: all conversations of this session are in mid-reply.
        """
        chat = self.chat(tools=tools)
        load_chat(cast("Session", self), path, chat, state=state)
        return chat
