"""Prompt: a checked conversation → what the model reads, token ids and media spans."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemma4_gguf.engine.engine import Engine
from gemma4_gguf.engine.kv_cache import Item, MediaSpan, n_positions
from gemma4_gguf.errors import TemplateError
from gemma4_gguf.prompt.media_spans import Layout, MediaLayouts
from gemma4_gguf.prompt.messages import Message, media_parts
from gemma4_gguf.prompt.template import Marks, Render, render_conversation, renderer
from gemma4_gguf.types import MODALITIES, ImageTokens, modality_of


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
        """Positions it takes, soft tokens of media included."""
        return n_positions(self.items)


class PromptWriter:
    """Writes the prompts of one engine.

    Args:
        engine: whose vocabulary and projector are used.

    Attributes:
        render: the model's template, or that of its family.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._marks = Marks(engine.model.control.ids)
        self.render: Render = renderer(engine.facts, self._marks)
        self._layouts = MediaLayouts(engine.media)

    def write(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool = False,
        image_tokens: ImageTokens | None = None,
        special_in_content: bool = False,
    ) -> Prompt:
        """Turns a conversation into a prompt.

        Args:
            messages: from `messages.check_messages`.
            tools: OpenAI tool dicts.
            thinking: ask for a thought before the answer.
            image_tokens: budget of pictures that name none themselves.
            special_in_content: control tokens that are spelled in texts are control tokens; otherwise only
                what the template itself writes is one.

        Returns:
            The prompt, <bos> first.

        Raises:
            MessageError: media that this session cannot take, or a text that is no Unicode text.
            MediaError: media that cannot be read.
            TemplateError: the template fails, or loses media.
        """
        self._engine.require_open()
        media = media_parts(messages)
        layouts = [self._layouts.layout(part, image_tokens) for part in media]
        rendered = render_conversation(
            self.render,
            self._marks,
            messages,
            tools,
            thinking=thinking,
            special_in_content=special_in_content,
        )
        kinds = [modality.kind for modality in map(modality_of, media) if modality is not None]
        items = list(self._items(_unfold(rendered.pieces, kinds, layouts)))
        bos = self._engine.model.bos
        while items[:1] == [bos]:
            del items[0]
        return Prompt((bos, *items), rendered.starts_in_thought)

    def _items(self, pieces: Iterator[_Piece]) -> Iterator[Item]:
        """Texts side by side are one text to the tokenizer, as they are where a processor writes them out."""
        for what, parts in itertools.groupby(pieces, key=lambda piece: piece[0]):
            if what in MODALITIES:
                for _, span in parts:
                    if isinstance(span, MediaSpan):
                        yield from self._engine.framed(what, span)
            elif what == "control":
                yield from (self._engine.model.control.ids[str(token)] for _, token in parts)
            else:
                text = "".join(str(text) for _, text in parts)
                yield from self._engine.model.tokenize(text, special=False)


_Piece = tuple[str, str | MediaSpan]


def _unfold(pieces: Iterable[tuple[str, str]], kinds: list[str], layouts: list[Layout]) -> Iterator[_Piece]:
    """Puts what stands for the media in the place of their placeholders."""
    found: list[str] = []
    for what, text in pieces:
        if what not in MODALITIES:
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
