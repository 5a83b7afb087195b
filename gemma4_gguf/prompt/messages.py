"""Message checks: what callers hand in, OpenAI-shaped messages and loose parts → one checked form.

Checked messages are plain dicts in OpenAI's shape, except that media parts hold the value types of
`types`: {"type": "text", "text": …}, {"type": "image", "image": Image}, {"type": "audio", "audio":
Audio}. Tool calls carry their arguments as objects. Checking twice changes nothing. Every refusal names the
place, such as messages[2].content[0].
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit
from urllib.request import url2pathname

from gemma4_gguf.errors import MessageError
from gemma4_gguf.media.kinds import kind_of_file, what_else_of_file
from gemma4_gguf.types import MODALITIES, Audio, Image, Media, Video, modality_of

ROLES = ("system", "developer", "user", "assistant", "tool")
DETAIL_TOKENS = {"low": 70, "high": 1120, "auto": None}

Message = dict[str, Any]


def check_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Checks a conversation and brings it into the one form.

    Args:
        messages: OpenAI-shaped dicts, oldest first.

    Returns:
        New dicts; the given ones are left alone.

    Raises:
        MessageError: a role or a part is unknown or malformed.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise MessageError(f"messages is a {type(messages).__name__}; expected a list of dicts.")
    if not messages:
        raise MessageError("There are no messages; expected at least one.")
    return [_check_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def user_message(parts: Sequence[Any]) -> Message:
    """One user message out of loose parts.

    Args:
        parts: str (text), Path (its kind is told by its name or its first bytes), Image, Audio, Video, PIL
            images.

    Returns:
        A dict in the checked form.

    Raises:
        MessageError: there is nothing, or a part is of no known kind.
    """
    if not parts:
        raise MessageError("There is nothing to say: give at least one text, picture or sound.")
    return {"role": "user", "content": [_loose_part(part, f"part {i}") for i, part in enumerate(parts)]}


def media_parts(messages: Sequence[Message]) -> list[Media]:
    """Pictures, sounds and clips of a checked conversation, in order.

    Args:
        messages: checked.

    Returns:
        The values.
    """
    found = []
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if part["type"] != "text":
                found.append(part[part["type"]])
    return found


# Messages


def _check_message(message: Any, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise MessageError(f"{where} is a {type(message).__name__}; expected a dict with role and content.")
    role = message.get("role")
    if role not in ROLES:
        raise MessageError(f"{where} has the role {role!r}; expected one of {', '.join(ROLES)}.")
    checked: Message = {"role": role}
    calls = message.get("tool_calls")
    if calls and role != "assistant":
        raise MessageError(f"{where} is of the {role} and has tool_calls; only the assistant calls tools.")
    content = message.get("content")
    if content is None and role in ("system", "developer", "user"):
        raise MessageError(f"{where} of the {role} has no content.")
    checked["content"] = _check_content(content, where)
    if calls:
        if isinstance(calls, (str, Mapping)) or not isinstance(calls, Sequence):
            raise MessageError(f"{where}.tool_calls is a {type(calls).__name__}; expected a list.")
        checked["tool_calls"] = [_check_call(c, f"{where}.tool_calls[{i}]") for i, c in enumerate(calls)]
    for key in ("reasoning_content", "tool_call_id", "name"):
        value = message.get(key)
        if value is None:
            continue
        if not isinstance(value, str):
            raise MessageError(f"{where}.{key} is a {type(value).__name__}; expected text.")
        checked[key] = value
    return checked


def _check_content(content: Any, where: str) -> Any:
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, Mapping) or not isinstance(content, Sequence):
        raise MessageError(
            f"{where}.content is a {type(content).__name__}; expected text or a list of parts."
        )
    return [_check_part(part, f"{where}.content[{i}]") for i, part in enumerate(content)]


def _check_call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise MessageError(f'{where} is {call!r}; expected {{"function": {{"name": …, "arguments": …}}}}.')
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except json.JSONDecodeError as error:
            raise MessageError(f"{where}.function.arguments is no JSON: {error}.") from error
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise MessageError(f"{where}.function.arguments is {arguments!r}; expected a JSON object.")
    checked = {"type": "function", "function": {"name": function["name"], "arguments": dict(arguments)}}
    return ({"id": str(call["id"])} if call.get("id") is not None else {}) | checked


# Parts


def _check_part(part: Any, where: str) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        return _loose_part(part, where)
    kind = part.get("type")
    check = _PARTS.get(kind) if isinstance(kind, str) else None
    if check is None:
        raise MessageError(f"{where} is of type {kind!r}; expected one of {', '.join(_PARTS)}.")
    return check(part, where)


def _text_part(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    text = part.get("text")
    if not isinstance(text, str):
        raise MessageError(f"{where}.text is a {type(text).__name__}; expected text.")
    return {"type": "text", "text": text}


def _media_part(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = str(part["type"])
    return {"type": kind, kind: _wrapped(part.get(kind), MODALITIES[kind].type, f"{where}.{kind}")}


def _image_url_part(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    url, detail = part.get("image_url"), None
    if isinstance(url, Mapping):
        detail, url = url.get("detail"), url.get("url")
    if detail is not None and detail not in DETAIL_TOKENS:
        raise MessageError(f"{where}.image_url.detail is {detail!r}; expected low, high or auto.")
    source = _from_url(url, f"{where}.image_url")
    return {"type": "image", "image": Image(source, DETAIL_TOKENS[detail or "auto"])}


def _input_audio_part(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    audio = part.get("input_audio")
    data = audio.get("data") if isinstance(audio, Mapping) else None
    if not isinstance(data, str):
        raise MessageError(f'{where}.input_audio is no {{"data": base64, "format": …}}.')
    if data.startswith("data:"):
        return {"type": "audio", "audio": Audio(_from_url(data, f"{where}.input_audio"))}
    return {"type": "audio", "audio": Audio(_base64(data, f"{where}.input_audio.data"))}


def _video_url_part(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    url = part.get("video_url")
    url = url.get("url") if isinstance(url, Mapping) else url
    return {"type": "video", "video": Video(_from_url(url, f"{where}.video_url"))}


_PARTS: dict[str, Callable[[Mapping[str, Any], str], dict[str, Any]]] = {
    "text": _text_part,
    "image_url": _image_url_part,
    "input_audio": _input_audio_part,
    "video_url": _video_url_part,
    **dict.fromkeys(MODALITIES, _media_part),
}


def _wrapped(value: Any, kind: type, where: str) -> Any:
    """The value itself, or a path, bytes or PIL image put into its type."""
    if isinstance(value, kind):
        return value
    if isinstance(value, (str, Path, bytes)) or (kind is Image and is_pil(value)):
        return kind(value)
    raise MessageError(f"{where} is a {type(value).__name__}; expected {kind.__name__}, a path or bytes.")


def _loose_part(part: Any, where: str) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if isinstance(part, Path):
        part = _guess(part, where)
    if is_pil(part):
        part = Image(part)
    modality = modality_of(part)
    if modality is not None:
        return {"type": modality.kind, modality.kind: part}
    raise MessageError(
        f"{where} is a {type(part).__name__}; expected text, a Path, Image, Audio, Video or a PIL image."
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


def is_pil(value: Any) -> bool:
    """Tells PIL images, without importing Pillow for text.

    Args:
        value: of any type.

    Returns:
        Whether it is one.
    """
    return any(kind.__module__ == "PIL.Image" and kind.__name__ == "Image" for kind in type(value).__mro__)


def _from_url(url: Any, where: str) -> Path | bytes:
    """A path, a file: address or a data: address; nothing is fetched from a network."""
    if not isinstance(url, str) or not url:
        raise MessageError(f"{where} is {url!r}; expected a path, a file: address or a data: address.")
    scheme = url[:8].partition(":")[0].lower()
    if scheme in ("http", "https"):
        raise MessageError(
            f"{where}: addresses on the network are not fetched ({url[:60]}). Download the file and pass its "
            "path or a data: address."
        )
    if scheme == "file":
        return Path(url2pathname(unquote(urlsplit(url).path)))
    if scheme == "data":
        header, comma, data = url.partition(",")
        if not comma:
            raise MessageError(f"{where}: the data: address has no comma before its data.")
        return _base64(data, where) if header.endswith(";base64") else unquote_to_bytes(data)
    return Path(url)


def _base64(data: str, where: str) -> bytes:
    try:
        return base64.b64decode(unquote(data) if "%" in data else data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MessageError(f"{where} is no valid base64: {error}.") from error
