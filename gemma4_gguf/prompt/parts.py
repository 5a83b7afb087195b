"""Parts of messages, in the shapes that people bring → text, media, thoughts, calls and results.

Read are the parts of OpenAI's two APIs, of Anthropic, Gemini, MCP, Ollama and transformers, and loose values:
text, paths, PIL images, Image, Audio and Video.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gemma4_gguf.errors import MessageError
from gemma4_gguf.media.kinds import kind_of_file, what_else_of_file
from gemma4_gguf.media.signatures import HEAD_BYTES, kind_of_bytes
from gemma4_gguf.prompt.fields import Fields, shown
from gemma4_gguf.prompt.sources import file_named_by, from_address, from_base64
from gemma4_gguf.types import MODALITIES, Image, ImageTokens, Media, holds, modality_of

DETAIL_TOKENS: dict[str, ImageTokens | None] = {"low": 70, "high": 1120, "auto": None, "original": "auto"}

_TEXT_TYPES = ("text", "input_text", "output_text", "refusal")
_THOUGHT_TYPES = ("thinking", "reasoning", "reasoning_text", "summary_text")
_CALL_TYPES = ("tool_use", "tool_call", "function_call")
_RESULT_TYPES = ("tool_result", "function_call_output")
_MEDIA_TYPES = {
    name: kind
    for kind in MODALITIES
    for name in (kind, f"{kind}_url", f"input_{kind}", f"{kind}_pil", f"{kind}_file", f"{kind}_path")
}
_FILE_TYPES = ("file", "input_file", "document", "resource", "media")
KNOWN_TYPES = (*_TEXT_TYPES, *_THOUGHT_TYPES, *_CALL_TYPES, *_RESULT_TYPES, *_MEDIA_TYPES, *_FILE_TYPES)
_SHOWN_TYPES = "text, image_url, input_audio, video_url, image, audio, video, thinking, tool_use, tool_result"
# Parts of Gemini name no type, and some programs forget it.
_UNTYPED = {
    "functionCall": "function_call",
    "function_call": "function_call",
    "functionResponse": "tool_result",
    "function_response": "tool_result",
    "inlineData": "file",
    "inline_data": "file",
    "fileData": "file",
    "file_data": "file",
    **{name: name for name in ("text", *_MEDIA_TYPES)},
}
_IN_BASE64 = ("data", "base64", "b64_json", "blob", "file_data")
_ADDRESSES = ("url", "uri", "fileUri", "file_uri", "path")
_NESTED = ("file", "resource", "source", "inlineData", "inline_data", "fileData", "file_data")
_MIME_TYPES = ("mimeType", "mime_type", "media_type", "mediaType")
_OPTION_NAMES = {"sampling_rate": "sample_rate_hz", "sample_rate": "sample_rate_hz"}


@dataclass
class Content:
    """What the parts of one message hold, sorted.

    Args:
        parts: text and media in the checked form.
        thoughts: of an assistant.
        calls: of an assistant, as they were given, with their places.
        results: of tools, as they were given, with their places.
    """

    parts: list[dict[str, Any]] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    results: list[tuple[str, Any]] = field(default_factory=list)


def read_parts(parts: Sequence[Any], where: str) -> Content:
    """Sorts the parts of a message.

    Args:
        parts: dicts and loose values.
        where: their place, for messages.

    Returns:
        What they hold.

    Raises:
        MessageError: a part is of no known kind or malformed.
    """
    content = Content()
    for i, part in enumerate(parts):
        place = f"{where}[{i}]"
        if isinstance(part, (Mapping, BaseModel)):
            _read(part, place, content)
        else:
            content.parts.append(loose_part(part, place))
    return content


def loose_part(part: Any, where: str) -> dict[str, Any]:
    """A part out of a value.

    Args:
        part: text, a path, a PIL image, Image, Audio or Video.
        where: its place, for messages.

    Returns:
        A part in the checked form.

    Raises:
        MessageError: it is of no known kind, or a text that is the name of a picture, a sound or a clip.
    """
    if isinstance(part, str):
        _refuse_name(part, where)
        return {"type": "text", "text": part}
    if isinstance(part, os.PathLike):
        part = _guess(Path(part), where)
    if is_pil(part):
        part = Image(part)
    modality = modality_of(part)
    if modality is not None:
        return {"type": modality.kind, modality.kind: part}
    if isinstance(part, (bytes, bytearray, memoryview)):
        raise MessageError(
            f"{where} is bytes, which do not say what they are. Wrap them: Image(…), Audio(…) or Video(…)."
        )
    raise MessageError(
        f"{where} is a {type(part).__name__}; expected text, a Path, Image, Audio, Video or a PIL image."
        + (" Session.complete takes dicts." if isinstance(part, Mapping) else "")
    )


def read_texts(value: Any, where: str) -> str:
    """Text that stands there as such, or in a list of texts.

    Args:
        value: text, a part with text, or a list of them.
        where: its place, for messages.

    Returns:
        The text; that of several joined by empty lines.

    Raises:
        MessageError: there is something else.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        fields = Fields(value, where)
        fields.take("type")
        text = fields.take("text", "summary", "value", "content", "thinking")
        fields.done()
        return read_texts(text, f"{where}.text")
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return "\n\n".join(read_texts(item, f"{where}[{i}]") for i, item in enumerate(value))
    raise MessageError(f"{where} is a {type(value).__name__}; expected text.")


def media_part(kind: str, given: Any, where: str) -> dict[str, Any]:
    """A part of one modality.

    Args:
        kind: of the modality.
        given: the medium as it is or as its type takes it, an address, or a dict that says one of these.
        where: its place, for messages.

    Returns:
        A part in the checked form.

    Raises:
        MessageError: it names no source, or is malformed.
    """
    return {"type": kind, kind: _medium(kind, given, where, kind)}


def is_pil(value: Any) -> bool:
    """Whether it is a PIL image; without importing Pillow for text.

    Args:
        value: of any type.

    Returns:
        True for those of its subclasses, too.
    """
    return any(kind.__module__ == "PIL.Image" and kind.__name__ == "Image" for kind in type(value).__mro__)


def _read(part: Any, where: str, content: Content) -> None:
    given = part if isinstance(part, Mapping) else part.model_dump(exclude_none=True)
    kind = given.get("type")
    if kind is None:
        kind = next((found for key, found in _UNTYPED.items() if holds(given.get(key))), None)
    if not isinstance(kind, str) or kind not in KNOWN_TYPES:
        raise MessageError(f"{where} is of type {shown(kind)}; expected one of {_SHOWN_TYPES}.")
    if kind in _CALL_TYPES:
        content.calls.append((where, given))
    elif kind in _RESULT_TYPES:
        content.results.append((where, given))
    elif kind in _MEDIA_TYPES:
        content.parts.append(media_part(_MEDIA_TYPES[kind], given, where))
    elif kind in _FILE_TYPES:
        content.parts.append(_file_part(given, where))
    elif kind in _THOUGHT_TYPES or given.get("thought") is True:
        fields = Fields(given, where)
        fields.take("type")
        fields.take("thought")
        content.thoughts.append(read_texts(fields.take("thinking", "text", "summary", "content"), where))
        fields.done()
    else:
        fields = Fields(given, where)
        fields.take("type")
        text = fields.take("text", "refusal")
        fields.done()
        if not isinstance(text, (str, Mapping)):
            raise MessageError(f"{where}.text is a {type(text).__name__}; expected text.")
        content.parts.append({"type": "text", "text": read_texts(text, f"{where}.text")})


# Media


def _medium(kind: str, given: Any, where: str, name: str) -> Media:
    of_kind = MODALITIES[kind].type
    if isinstance(given, of_kind):
        return given
    if isinstance(given, (Mapping, BaseModel)):
        return _described(kind, given, where)
    if (kind == "image" and is_pil(given)) or hasattr(given, "__array_interface__"):
        return of_kind(given)
    if isinstance(given, (str, bytes, bytearray, os.PathLike)):
        return of_kind(from_base64(given, where) if name in _IN_BASE64 else from_address(given, where))
    if given is None or name not in (kind, f"{kind}_pil"):
        from_address(given, where)
    raise MessageError(f"{where} is a {type(given).__name__}; expected {of_kind.__name__}, a path or bytes.")


def _described(kind: str, given: Any, where: str) -> Media:
    """A dict that says where the medium is, and how to show it."""
    fields = Fields(given, where)
    named = fields.take("type")
    options = {name: fields.take(name) for name in MODALITIES[kind].fields}
    for spelling, name in _OPTION_NAMES.items():
        if name in options:
            options[name] = fields.take(spelling) or options[name]
    if kind == "image":
        detail = fields.take("detail")
        if detail is not None and (not isinstance(detail, str) or detail not in DETAIL_TOKENS):
            raise MessageError(f"{where}.detail is {shown(detail)}; expected {', '.join(DETAIL_TOKENS)}.")
        options["image_tokens"] = options["image_tokens"] or DETAIL_TOKENS[detail or "auto"]
    names = (kind, f"{kind}_url", f"input_{kind}", f"{kind}_pil", f"{kind}_file", f"{kind}_path")
    sources = {name: fields.take(name) for name in (*names, *_ADDRESSES, "source", *_IN_BASE64)}
    fields.done()
    found = {name: value for name, value in sources.items() if value is not None}
    if len(found) != 1:
        expected = f"expected {named if named in names else kind}: a path, a data: address or a value"
        raise MessageError(
            f"{where}.{named if named in names else kind} is None; {expected}."
            if not found
            else f"{where} has {' and '.join(found)}; expected one source."
        )
    ((name, value),) = found.items()
    medium = _medium(kind, value, f"{where}.{name}", name)
    return replace(medium, **{name: value for name, value in options.items() if value is not None})


def _file_part(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A file of a kind that its MIME type, its first bytes or its name tells."""
    fields = Fields(given, where)
    named = fields.take("type")
    nested = next((name for name in _NESTED if isinstance(given.get(name), Mapping)), None)
    if nested is not None:
        inner = fields.take(nested)
        fields.done()
        given, fields = inner, Fields(inner, where)
        named = fields.take("type")
    text, address, data = fields.take("text"), fields.take(*_ADDRESSES), fields.take(*_IN_BASE64)
    fields.done()
    if text is not None or named == "text":
        return {"type": "text", "text": read_texts(data if text is None else text, where)}
    source = from_address(address, where) if data is None else from_base64(data, where)
    mime = next((str(given[key]) for key in _MIME_TYPES if given.get(key)), "")
    written = address if data is None else data
    if not mime and isinstance(written, str) and written[:5].lower() == "data:":
        mime = written[5:].partition(",")[0].partition(";")[0]
    kind: str | None = mime.partition("/")[0].lower()
    if not mime and isinstance(source, Path):
        return loose_part(source, where)
    if not mime and isinstance(source, bytes):
        kind = kind_of_bytes(source[:HEAD_BYTES])
        kind = "video" if kind == "container" else kind
    if kind in MODALITIES:
        return {"type": kind, kind: MODALITIES[kind].type(source)}
    try:
        if kind == "text" and isinstance(source, bytes):
            return {"type": "text", "text": source.decode()}
    except UnicodeDecodeError as error:
        raise MessageError(f"{where} is a text that is not UTF-8 ({error.reason}).") from error
    raise MessageError(
        f"{where} is a file of type {mime[:80] or 'unknown'}; pictures, sounds, clips and plain text are "
        "read. Give the pages of a document as pictures, or its text."
    )


def _refuse_name(text: str, where: str) -> None:
    """Raises MessageError for a text that is the name of a picture, a sound or a clip."""
    path = file_named_by(text)
    try:
        named = None if path is None else modality_of(_guess(path, ""))
    except MessageError:  # another kind of file
        return
    if named is not None:
        raise MessageError(
            f"{where} is the text {text!r}, which is the name of a {named.noun}. Give Path({str(path)!r}) to "
            f"show it (--{named.kind} on the command line); Session.complete takes the name itself as "
            '{"type": "text", "text": …}.'
        )


def _guess(path: Path, where: str) -> Media:
    """Tells what a file is by its first bytes, else by its name."""
    try:
        kind = kind_of_file(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MessageError(f"{where}: {path} cannot be read: {reason}.") from error
    if kind is not None:
        return MODALITIES[kind].type(path)
    found = what_else_of_file(path)
    raise MessageError(
        f"{where}: {path} is no picture, sound or video that is known by its name or its first bytes"
        f"{f': {found}' if found else ''}. Wrap it in Image(…), Audio(…) or Video(…), or pass its text as "
        "str."
    )
