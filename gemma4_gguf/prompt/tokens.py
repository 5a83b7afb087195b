"""Messages → what the model reads: token ids, with media spans where the template put placeholders.

The template writes `<|image|>` for a picture. The same characters in somebody's text must stay text, so
every media marker in a string is swapped for private characters before rendering, and comes back as plain
ones after.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemma4_gguf.engine.kv_cache import Item, MediaSpan, n_positions
from gemma4_gguf.engine.model import Model
from gemma4_gguf.errors import GGUFError, TemplateError
from gemma4_gguf.prompt.media_spans import Layout
from gemma4_gguf.prompt.messages import Message, media_parts
from gemma4_gguf.prompt.template import Render
from gemma4_gguf.types import Audio, Image, ImageTokens, Video

MakeLayout = Callable[[Image | Audio | Video, ImageTokens | None], Layout]

_KINDS = ("image", "audio", "video")
_PLACEHOLDERS = tuple(f"<|{kind}|>" for kind in _KINDS)
_MEDIA_MARKERS = (*_PLACEHOLDERS, *(form for kind in _KINDS for form in (f"<|{kind}>", f"<{kind}|>")))
_ANY_MARKER = re.compile("|".join(map(re.escape, _MEDIA_MARKERS)))
_PRIVATE_USE = range(0xE000, 0xF900)
_OPEN_THOUGHT = re.compile(r"<\|channel>thought\s*$")


@dataclass(frozen=True)
class Prompt:
    """A whole prompt.

    Args:
        items: token ids and media spans, `<bos>` first.
        starts_in_thought: it ends inside a thought that the reply goes on with.
    """

    items: tuple[Item, ...]
    starts_in_thought: bool

    @property
    def n_tokens(self) -> int:
        return n_positions(self.items)


def write_prompt(
    model: Model,
    messages: Sequence[Message],
    *,
    render: Render,
    lay_out: MakeLayout,
    tools: Sequence[Mapping[str, Any]] | None = None,
    thinking: bool = False,
    image_tokens: ImageTokens | None = None,
) -> Prompt:
    """Turns a checked conversation into a prompt.

    Args:
        model: whose vocabulary is used.
        messages: from `messages.check_messages`.
        render: the model's template.
        lay_out: prepares one picture, sound or clip.
        tools: OpenAI tool dicts.
        thinking: ask for a thought before the answer.
        image_tokens: budget of pictures that name none themselves.

    Raises:
        MessageError: media that this session cannot take.
        MediaError: media that cannot be read.
        TemplateError: the template fails, or loses media.
    """
    media = media_parts(messages)
    layouts = [lay_out(part, image_tokens) for part in media]
    shield = _Shield([messages, tools])
    text = render([_for_template(m) for m in shield.hide(messages)], shield.hide(tools), thinking)
    kinds = [type(part).__name__.lower() for part in media]
    items = list(_items(model, _unfold(shield.split(text), kinds, layouts)))
    while items[:1] == [model.bos]:
        del items[0]
    return Prompt((model.bos, *items), bool(_OPEN_THOUGHT.search(text)))


def wrap_span(model: Model, kind: str, span: MediaSpan) -> list[Item]:
    """A span between the control tokens that mark its begin and end."""
    ids = []
    for marker in (f"<|{kind}>", f"<{kind}|>"):
        token = model.token_id(marker)
        if token is None:
            raise GGUFError(
                f"{model.facts.path}: {marker} is no control token of its vocabulary, so the model cannot "
                f"read {kind} parts. Convert the checkpoint again."
            )
        ids.append(token)
    return [ids[0], span, ids[1]]


_Piece = tuple[str, str | MediaSpan]


def _unfold(pieces: Iterator[tuple[str, str]], kinds: list[str], layouts: list[Layout]) -> Iterator[_Piece]:
    """Puts what stands for the media in the place of their placeholders."""
    found: list[str] = []
    for what, text in pieces:
        if what not in _KINDS:
            yield what, text
            continue
        found.append(what)
        if found == kinds[: len(found)]:
            for part in layouts[len(found) - 1]:
                yield ("text", part) if isinstance(part, str) else part
    if found != kinds:
        raise TemplateError(
            f"The chat template shows {found or 'no media'} where the messages have {kinds or 'none'}. Use "
            "another template, or put media only into messages it handles."
        )


def _items(model: Model, pieces: Iterator[_Piece]) -> Iterator[Item]:
    """Texts side by side are one text to the tokenizer, as they are where a processor writes them out."""
    for what, parts in itertools.groupby(pieces, key=lambda piece: piece[0]):
        if what in _KINDS:
            for _, span in parts:
                if isinstance(span, MediaSpan):
                    yield from wrap_span(model, what, span)
        else:
            yield from model.tokenize("".join(str(text) for _, text in parts), special=what == "text")


def _for_template(message: Message) -> Message:
    """Templates look at the type of a part and the text; the media themselves stay here."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    parts = [part if part["type"] == "text" else {"type": part["type"]} for part in content]
    return message | {"content": parts}


class _Shield:
    """Hides media markers that stand in strings, and finds them again in the rendered text.

    Args:
        values: everything that will be hidden.
    """

    def __init__(self, values: Any) -> None:
        text = "\n".join(_strings(values))
        self._private = ""
        if _ANY_MARKER.search(text):
            self._private = next(chr(code) for code in _PRIVATE_USE if chr(code) not in text)

    def hide(self, value: Any) -> Any:
        if not self._private:
            return value
        if isinstance(value, str):
            return _ANY_MARKER.sub(
                lambda m: f"{self._private}{_MEDIA_MARKERS.index(m[0])}{self._private}", value
            )
        if isinstance(value, Mapping):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.hide(item) for item in value]
        return value

    def split(self, text: str) -> Iterator[tuple[str, str]]:
        """Yields ("text", …) to be read with its control tokens, ("literal", …) without, and media kinds."""
        hidden = f"|{self._private}\\d+{self._private}" if self._private else ""
        pattern = "|".join(map(re.escape, _PLACEHOLDERS)) + hidden
        for i, piece in enumerate(re.split(f"({pattern})", text)):
            if i % 2 == 0:
                yield "text", piece
            elif piece in _PLACEHOLDERS:
                yield _KINDS[_PLACEHOLDERS.index(piece)], piece
            else:
                yield "literal", _MEDIA_MARKERS[int(piece.strip(self._private))]


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
