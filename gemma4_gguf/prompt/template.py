"""What a session is opened from: files found or downloaded, the projector of the model, its template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gemma4_gguf.files.model_file import ModelFacts
from gemma4_gguf.prompt.messages import Message
from gemma4_gguf.templates import Renderer, load, words_before_calls

# (messages, tools, thinking) → the conversation as text, with <bos> and the beginning of the model's turn
Render = Callable[[Sequence[Message], Sequence[Mapping[str, Any]] | None, bool], str]


def renderer(facts: ModelFacts) -> Render:
    """The model's own template, else the one of its family; compiled when the first conversation comes."""

    def render(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None, thinking: bool) -> str:
        template = Renderer(facts.chat_template or load(facts.family_size))
        return template.render(words_before_calls(messages), tools, enable_thinking=thinking)

    return render
