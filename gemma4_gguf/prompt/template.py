"""Chat template: a checked conversation → control tokens, texts, and the places of its media.

Only what the template itself writes is a control token; the same characters in anybody's text are
characters. While the template runs, each control token that it spells is one lone surrogate, a character that
no text holds (`check_messages` and `render_conversation` refuse it). So whatever the template does with
texts, cuts, joins or prints as JSON, none of them can become a control token, or break one.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from gemma4_gguf.errors import MessageError, TemplateError
from gemma4_gguf.files.chat_template import foreign_template
from gemma4_gguf.files.model_file import ModelFacts
from gemma4_gguf.prompt.messages import Message
from gemma4_gguf.special_tokens import (
    BOS,
    CHANNEL_CLOSE,
    CHANNEL_OPEN,
    MEDIA_BEGIN,
    MEDIA_END,
    PLACEHOLDERS,
    any_of,
)
from gemma4_gguf.templates import Renderer, load, words_before_calls

# (messages, tools, thinking) → what the template prints, to the beginning of the model's turn
Render = Callable[[Sequence[Message], Sequence[Mapping[str, Any]] | None, bool], str]

_FIRST_MARK, _MAX_MARKS = 0xD800, 0x400
_FIRST_VEILED = 0xDC00  # and up, one for each ASCII character
_PROBE = "zqx"  # a text that no template holds
_KIND_OF = {marker: kind for kind, marker in PLACEHOLDERS.items()}
_OF_MEDIA = {*PLACEHOLDERS.values(), *MEDIA_BEGIN.values(), *MEDIA_END.values()}
_VEILED = re.compile("[\udc00-\udc7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# A thought that stands in the words of an assistant, as where a raw reply was put into the history.
_THOUGHT = re.compile(
    f"(?:{re.escape(CHANNEL_OPEN)}\\s{{0,4}}){{1,4}}thought[ \\t]*"
    f"(?:\\r?\\n.*?(?:{re.escape(CHANNEL_CLOSE)}|\\Z)|{re.escape(CHANNEL_CLOSE)})",
    re.DOTALL,
)


@dataclass(frozen=True)
class Rendered:
    """A conversation as the template writes it.

    Args:
        pieces: in order: ("control", …) one control token, ("text", …) plain characters, and placeholders of
            media under their kind.
        starts_in_thought: it ends inside a thought that the reply goes on with.
    """

    pieces: tuple[tuple[str, str], ...]
    starts_in_thought: bool


class Marks:
    """Characters that stand for control tokens while a template runs.

    Args:
        tokens: texts of the control tokens.

    Attributes:
        of: mark by text; of more than 1024 the reserved ones (`<unused…>`) are left out.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        texts = sorted({*tokens, *PLACEHOLDERS.values()}, key=lambda text: (text.startswith("<unused"), text))
        self.of = {text: chr(_FIRST_MARK + i) for i, text in enumerate(texts[:_MAX_MARKS])}
        self._text = {mark: text for text, mark in self.of.items()}
        self._spelled = any_of(self.of)
        self._ends = re.compile(f"[{re.escape(''.join({end for t in texts for end in (t[0], t[-1])}))}]")
        self._insides = {text[1:-1] for text in texts}
        self._mark = re.compile(f"[{re.escape(''.join(self._text))}]")
        self._mark_or_spelled = re.compile(f"{self._mark.pattern}|{self._spelled.pattern}")

    def spelled_in(self, text: str) -> bool:
        """Whether control tokens are spelled out in a text."""
        return self._spelled.search(text) is not None

    def put(self, text: str) -> str:
        """A text in which control tokens, but for those of media, are marks as if a template spelled them."""
        return self._spelled.sub(lambda match: match[0] if match[0] in _OF_MEDIA else self.of[match[0]], text)

    def veil(self, text: str) -> str:
        """A text that spells no control token, not even with what a template puts around it.

        Character by character, so that its length stays; `plain` brings it back.
        """
        if text.strip() in self._insides:
            return "".join(map(_veiled, text))
        return self._ends.sub(lambda match: _veiled(match[0]), text)

    def plain(self, text: str) -> str:
        """A text as people read it: marks and what is veiled are what they stand for."""
        text = _unveil(self._mark.sub(lambda match: self._text[match[0]], text))
        return text.encode("utf-8", "backslashreplace").decode()

    def split(self, text: str, *, spelled: bool) -> Iterator[tuple[str, str]]:
        """Cuts what a template printed.

        Args:
            text: with marks.
            spelled: control tokens that are spelled out in it count, too.

        Yields:
            Pieces as in `Rendered`.

        Raises:
            TemplateError: it holds halves of surrogate pairs that are no marks.
        """
        at = 0
        for match in (self._mark_or_spelled if spelled else self._mark).finditer(text):
            if match.start() > at:
                yield "text", _printed_text(text[at : match.start()])
            token = self._text.get(match[0], match[0])
            yield _KIND_OF.get(token, "control"), token
            at = match.end()
        if at < len(text):
            yield "text", _printed_text(text[at:])


def renderer(facts: ModelFacts, marks: Marks) -> Render:
    """The model's own template, else the one of its family; compiled when the first conversation comes.

    Args:
        facts: of the model file.
        marks: printed where the template spells control tokens.

    Returns:
        A callable; an error of the template comes with the first conversation. A template that cannot be
        Gemma 4's gives a warning.
    """
    if warning := foreign_template(facts.chat_template):
        warnings.warn(warning, stacklevel=2)
    bos = marks.of.get(BOS, BOS)

    def render(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None, thinking: bool) -> str:
        template = Renderer(facts.chat_template or load(facts.family_size), marks=marks.of)
        return template.render(words_before_calls(messages), tools, enable_thinking=thinking, bos_token=bos)

    return render


def render_conversation(
    render: Render,
    marks: Marks,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None,
    *,
    thinking: bool,
    special_in_content: bool = False,
) -> Rendered:
    """Renders a conversation and finds its control tokens and the places of its media.

    Args:
        render: the model's template.
        marks: what it prints for control tokens.
        messages: checked.
        tools: OpenAI tool dicts.
        thinking: ask for a thought before the answer.
        special_in_content: control tokens that are spelled in texts are control tokens.

    Returns:
        The conversation in pieces.

    Raises:
        MessageError: half a surrogate pair stands in a text.
        TemplateError: the template fails.
    """
    said, shown = _changed([messages, tools], _checked)
    if special_in_content:
        said, shown = _changed([said, shown], marks.put)
    else:
        said = [_without_thoughts(message) for message in said]
    given = [[_for_template(render, marks, message) for message in said], shown]

    def printed(value: Any) -> str:
        try:
            return render(value[0], value[1], thinking)
        except TemplateError as error:
            raise TemplateError(marks.plain(*error.args)) from error

    text = printed(given)
    spelled = False
    if marks.spelled_in(text):
        # They stand in somebody's text, or the template puts them together out of pieces: then they are still
        # there when the texts can spell nothing.
        other = printed(_changed(given, marks.veil))
        spelled = marks.spelled_in(other)
        text = other if spelled else text
    pieces = tuple(marks.split(text, spelled=spelled))
    return Rendered(pieces, _open_thought(pieces))


def _open_thought(pieces: Sequence[tuple[str, str]]) -> bool:
    end = pieces[-2:]
    return len(end) == 2 and end[0] == ("control", CHANNEL_OPEN) and end[1][1].rstrip() == "thought"


def _without_thoughts(message: Message) -> Message:
    """Leaves out thoughts in the words of an assistant, as the official templates do, which cannot see them
    any more."""
    content = message.get("content")
    if message["role"] != "assistant" or not content:
        return message
    if isinstance(content, str):
        return message | {"content": _THOUGHT.sub("", content)}
    parts = [p | {"text": _THOUGHT.sub("", p["text"])} if p["type"] == "text" else p for p in content]
    return message | {"content": parts}


def _for_template(render: Render, marks: Marks, message: Message) -> Message:
    """Templates look at the type of a part and the text; the media themselves stay here.

    Many know only text: they are given text, with the markers of media in it.
    """
    content = message.get("content")
    if not isinstance(content, list):
        return message
    if _reads_parts(render, message["role"]):
        parts = [part if part["type"] == "text" else {"type": part["type"]} for part in content]
        return message | {"content": parts}
    text, before = "", ""
    for part in content:
        kind = part["type"]
        text += ("\n" if kind == before == "text" else "") + (
            part["text"] if kind == "text" else marks.of[PLACEHOLDERS[kind]]
        )
        before = kind
    return message | {"content": text}


@lru_cache(maxsize=64)
def _reads_parts(render: Render, role: str) -> bool:
    """Whether a template prints the text in the parts of a message, and not the list as Python writes it."""
    part = {"type": "text", "text": _PROBE}
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}
    said: list[Message] = [{"role": "user", "content": "?"}]
    called = [*said, {"role": "assistant", "content": "", "tool_calls": [call]}]
    probe: Message = {"role": role, "content": [part], "tool_call_id": "1", "name": "f"}
    before, after = {"assistant": (said, []), "tool": (called, []), "user": ([], [])}.get(role, ([], said))
    try:
        printed = render([*before, probe, *after], None, False)
    except TemplateError:
        return False
    return _PROBE in printed and not re.search("[\"']text[\"']", printed)


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    """A copy in which every text, keys included, is changed; whatever is no text stays."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_changed(key, change): _changed(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_changed(item, change) for item in value]
    return value


def _checked(text: str) -> str:
    found = _SURROGATE.search(text)
    if found is not None:
        raise MessageError(f"{_half_pair(text, found.start())} Decode where it comes from as UTF-8.")
    return text


def _half_pair(text: str, at: int) -> str:
    return (
        f"{text[at]!r} after {text[max(0, at - 40) : at]!r} is half a surrogate pair, which is no character."
    )


def _veiled(character: str) -> str:
    return chr(_FIRST_VEILED + ord(character)) if character.isascii() else character


def _unveil(text: str) -> str:
    return _VEILED.sub(lambda match: chr(ord(match[0]) - _FIRST_VEILED), text)


def _printed_text(text: str) -> str:
    text = _unveil(text)
    found = _SURROGATE.search(text)
    if found is not None:
        raise TemplateError(f"The chat template prints this: {_half_pair(text, found.start())}")
    return text
