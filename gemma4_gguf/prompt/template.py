"""Chat template: a checked conversation → text, with the places of its media.

The template writes `<|image|>` for a picture. The same characters in somebody's text must stay text, so
every media marker in a string is swapped for private characters before rendering, and comes back as plain
ones after.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemma4_gguf.files.model_file import ModelFacts
from gemma4_gguf.prompt.messages import Message
from gemma4_gguf.special_tokens import CHANNEL_OPEN, MEDIA_BEGIN, MEDIA_END, PLACEHOLDERS, unused_character
from gemma4_gguf.templates import Renderer, load, words_before_calls

# (messages, tools, thinking) → the conversation as text, with <bos> and the beginning of the model's turn
Render = Callable[[Sequence[Message], Sequence[Mapping[str, Any]] | None, bool], str]

_KIND_OF = {marker: kind for kind, marker in PLACEHOLDERS.items()}
_MARKERS = (*PLACEHOLDERS.values(), *MEDIA_BEGIN.values(), *MEDIA_END.values())
_ANY_MARKER = re.compile("|".join(map(re.escape, _MARKERS)))
_OPEN_THOUGHT = re.compile(rf"{re.escape(CHANNEL_OPEN)}thought\s*$")


@dataclass(frozen=True)
class Rendered:
    """A conversation as the template writes it.

    Args:
        pieces: in order: ("text", …) to be read with its control tokens, ("literal", …) without, and
            placeholders of media under their kind.
        starts_in_thought: it ends inside a thought that the reply goes on with.
    """

    pieces: tuple[tuple[str, str], ...]
    starts_in_thought: bool


def renderer(facts: ModelFacts) -> Render:
    """The model's own template, else the one of its family; compiled when the first conversation comes.

    Args:
        facts: of the model file.

    Returns:
        A callable; an error of the template comes with the first conversation.
    """

    def render(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None, thinking: bool) -> str:
        template = Renderer(facts.chat_template or load(facts.family_size))
        return template.render(words_before_calls(messages), tools, enable_thinking=thinking)

    return render


def render_conversation(
    render: Render,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None,
    *,
    thinking: bool,
) -> Rendered:
    """Renders a conversation and finds the places of its media.

    Args:
        render: the model's template.
        messages: checked.
        tools: OpenAI tool dicts.
        thinking: ask for a thought before the answer.

    Returns:
        The text in pieces.

    Raises:
        TemplateError: the template fails.
    """
    shield = Shield([messages, tools])
    text = render([_for_template(m) for m in shield.hide(messages)], shield.hide(tools), thinking)
    return Rendered(tuple(shield.split(text)), bool(_OPEN_THOUGHT.search(text)))


def _for_template(message: Message) -> Message:
    """Templates look at the type of a part and the text; the media themselves stay here."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    parts = [part if part["type"] == "text" else {"type": part["type"]} for part in content]
    return message | {"content": parts}


class Shield:
    """Hides media markers that stand in strings, and finds them again in the rendered text.

    Args:
        values: everything that will be hidden.
    """

    def __init__(self, values: Any) -> None:
        texts = list(_strings(values))
        self._private = unused_character(texts) if any(map(_ANY_MARKER.search, texts)) else ""

    def hide(self, value: Any) -> Any:
        """The value with every media marker in its strings swapped for private characters.

        Args:
            value: strings, mappings and lists of any depth; anything else stays.

        Returns:
            A copy; the value itself if nothing is to be hidden.
        """
        if not self._private:
            return value
        if isinstance(value, str):
            return _ANY_MARKER.sub(lambda m: f"{self._private}{_MARKERS.index(m[0])}{self._private}", value)
        if isinstance(value, Mapping):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.hide(item) for item in value]
        return value

    def split(self, text: str) -> Iterator[tuple[str, str]]:
        """Cuts the rendered text, and brings the hidden markers back.

        Args:
            text: from the template.

        Yields:
            ("text", …) to be read with its control tokens, ("literal", …) without, and placeholders of media
            under their kind.
        """
        hidden = f"|{self._private}\\d+{self._private}" if self._private else ""
        pattern = "|".join(map(re.escape, PLACEHOLDERS.values())) + hidden
        for i, piece in enumerate(re.split(f"({pattern})", text)):
            if i % 2 == 0:
                yield "text", piece
            elif piece in _KIND_OF:
                yield _KIND_OF[piece], piece
            else:
                yield "literal", _MARKERS[int(piece.strip(self._private))]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)
