"""Tool results: what a function returned → what the model reads, text or texts and media.

Values become JSON as Pydantic would write it; numbers and arrays of NumPy (and of whatever else has `tolist`)
and content of MCP servers are read, too. Pictures, sounds and clips stay media, wherever they stand.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import os
import re
from collections.abc import ItemsView, KeysView, Mapping, Sequence, Set, ValuesView
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any

from pydantic import BaseModel, TypeAdapter

from gemma4_gguf.errors import MessageError, ToolError
from gemma4_gguf.prompt.parts import KNOWN_TYPES, is_pil, read_parts
from gemma4_gguf.types import Audio, Image, Media

_IN_BASE64 = ("data", "b64_json", "base64")
_BYTES = (bytes, bytearray, memoryview)
_JSON: TypeAdapter[Any] = TypeAdapter(Any)
_MOST_BITS = 14_000  # Python refuses to write longer ones
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class ToolResult:
    """What a call gave back.

    Args:
        content: text or JSON for the model, or a list of texts and media.
        failed: the tool raised, timed out, or was called wrongly; `content` says how.
        error: what the tool raised.
    """

    content: Any
    failed: bool = False
    error: Exception | None = None


def as_result(value: Any, name: str) -> ToolResult:
    """What a function returned, as the model can read it.

    Args:
        value: of any type.
        name: of the tool, for messages.

    Returns:
        Text, JSON as text, or texts and media in order; `failed` where an MCP server says so.

    Raises:
        ToolError: the value holds what can be neither written as JSON nor shown.
    """
    try:
        answer = _mcp_answer(value)
        if answer is not None:
            return ToolResult(*answer)
        if isinstance(value, str):
            return ToolResult(_clean(value))
        if (parts := _content_parts(value)) is not None:
            return ToolResult(parts)
        if isinstance(value, (list, tuple)) and any(map(_is_medium, value)):
            return ToolResult([_medium(one) if _is_medium(one) else _written(one) for one in value])
        if _is_medium(value):
            return ToolResult([_medium(value)])
        media: list[Media] = []
        text = json.dumps(_json(value, media), ensure_ascii=False)
        return ToolResult([text, *media] if media else text)
    except _Unreadable as error:
        raise ToolError(f"{name} returned what the model cannot be told: {error}") from error
    except RecursionError as error:
        raise ToolError(f"{name} returned a value that is nested too deeply, or holds itself.") from error


class _Unreadable(Exception):
    """A value that is neither JSON nor a medium; says what to do."""


def _is_medium(value: Any) -> bool:
    return isinstance(value, Media) or is_pil(value)


def _medium(value: Any) -> Media:
    return Image(value) if is_pil(value) else value


def _written(value: Any) -> str:
    if isinstance(value, str):
        return _clean(value)
    media: list[Media] = []
    text = json.dumps(_json(value, media), ensure_ascii=False)
    if media:
        raise _Unreadable(
            "a list that holds media, and lists or objects with media, too. Return a flat list."
        )
    return text


def _json(value: Any, media: list[Media]) -> Any:
    """A value in plain JSON; media are taken out, and named by their number where they stood."""
    if value is None or (isinstance(value, (bool, int, float, str)) and not isinstance(value, Enum)):
        return _plain(value)
    if _is_medium(value):
        media.append(_medium(value))
        return f"{type(media[-1]).__name__.lower()} {len(media)}"
    if isinstance(value, Enum):
        return _json(value.value, media)
    if isinstance(value, os.PathLike):
        return _json(os.fspath(value), media)
    if isinstance(value, BaseModel):
        return _json(_fields_of(value), media)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _json(getattr(value, field.name), media) for field in fields(value)}
    if isinstance(value, Mapping):
        return _object(value, media)
    if hasattr(value, "_asdict"):  # a named tuple
        return _object(value._asdict(), media)
    if isinstance(value, (set, frozenset)):
        return [_json(one, media) for one in _sorted(value)]
    if isinstance(value, (Sequence, KeysView, ValuesView, ItemsView)) and not isinstance(value, _BYTES):
        return [_json(one, media) for one in value]
    if callable(getattr(value, "tolist", None)) and not isinstance(value, (*_BYTES, type)):
        return _json(value.tolist(), media)
    return _scalar(value, media)


def _sorted(values: Set[Any]) -> list[Any]:
    """Sets come in another order in every process, and a prompt that differs is read again."""
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=lambda value: (type(value).__name__, repr(value)))


def _plain(value: Any) -> Any:
    """A JSON value in the built-in type: its subclasses may print as they like."""
    if isinstance(value, str):
        return _clean(str.__str__(value))
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if value.bit_length() > _MOST_BITS:
            raise _Unreadable("a whole number of thousands of digits. Return it as text.")
        return int(value)
    if math.isfinite(value):
        return float(value)
    return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _clean(text: str) -> str:
    """Lone surrogates, as in names of files that are no UTF-8, cannot be tokenized."""
    return _SURROGATES.sub("\ufffd", text)


def _fields_of(model: BaseModel) -> dict[str, Any] | Any:
    """What a Pydantic model writes, by its own serializers, with media as they are."""
    dumped = model.model_dump()
    if isinstance(dumped, dict):
        dumped |= {name: value for name, value in model if name in dumped and _holds_media(value)}
    return dumped


def _holds_media(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_media, value.values()))
    if isinstance(value, BaseModel):
        return any(_holds_media(part) for _, part in value)
    return any(map(_holds_media, value)) if isinstance(value, (list, tuple, set)) else _is_medium(value)


def _object(value: Mapping[Any, Any], media: list[Media]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, part in value.items():
        name = _json(key, [])
        name = name if isinstance(name, str) else json.dumps(name, ensure_ascii=False)
        if name in out:
            raise _Unreadable(f"an object with two keys that are written {name!r}.")
        out[name] = _json(part, media)
    return out


def _scalar(value: Any, media: list[Media]) -> Any:
    """Dates, decimals, UUIDs, paths, bytes of text and what else Pydantic writes as JSON."""
    kind = type(value).__name__
    if hasattr(value, "__next__") or hasattr(value, "__anext__"):
        raise _Unreadable(f"a {kind}, which gives its values one by one. Return a list.")
    is_bytes = isinstance(value, _BYTES)
    try:
        return _json(_JSON.dump_python(bytes(value) if is_bytes else value, mode="json"), media)
    except (TypeError, ValueError) as error:
        if is_bytes:
            raise _Unreadable(
                "bytes that are no text. Wrap them in Image(…), Audio(…) or Video(…)."
            ) from error
        raise _Unreadable(
            f"a {kind}. Return text, numbers, dicts, lists, dataclasses, Pydantic models, pictures or sounds."
        ) from error


# Content in the shapes of providers


def _content_parts(value: Any) -> list[Any] | None:
    """Texts and media, where a value is one part of a message or a list of them, with media inside.

    A part that only names a place is data: whoever lists files and pictures does not show them all.
    """
    listed = value if isinstance(value, (list, tuple)) else [value]
    if not any(isinstance(part, Mapping) and _holds_medium(part) for part in listed):
        return None
    try:
        given = [{"type": "text", "text": part} if isinstance(part, str) else part for part in listed]
        content = read_parts(given, "part")
    except MessageError:  # it only looks like that
        return None
    if content.thoughts or content.calls or content.results:
        return None
    return [part[part["type"]] for part in content.parts]


def _holds_medium(part: Mapping[str, Any]) -> bool:
    if part.get("type") not in KNOWN_TYPES and not {"inlineData", "inline_data"} & set(part):
        return False
    levels = [part, *(inner for inner in part.values() if isinstance(inner, Mapping))]
    values = [(key, one) for level in levels for key, one in level.items()]
    return any(
        _is_medium(one) or (isinstance(one, str) and (key in _IN_BASE64 or one[:5].lower() == "data:"))
        for key, one in values
    )


# Content of MCP servers

_MCP_PARTS = {  # keys that a part has beside its type
    "text": {"text"},
    "image": {"data", "mimeType"},
    "audio": {"data", "mimeType"},
    "resource": {"resource"},
    "resource_link": {"uri", "name"},
}
_MCP_NOTES = {"type", "annotations", "_meta", "meta"}
_MCP_RESULT = {"content", "isError", "structuredContent", "_meta", "meta"}


def _mcp_answer(value: Any) -> tuple[str | list[Any], bool] | None:
    """The content of MCP's CallToolResult or of a list of its parts, and whether it reports a failure."""
    answer = _mcp_result(value)
    if answer is None:
        listed = value if isinstance(value, (list, tuple)) else [value]
        answer = {"content": [_mcp_dict(part) for part in listed]}
    parts = answer["content"]
    structured = answer.get("structuredContent")
    if not all(map(_is_mcp_part, parts)) or not (parts or "isError" in answer or structured is not None):
        return None
    content = [_mcp_part(part) for part in parts]
    texts = [one for one in content if isinstance(one, str)]
    if structured is not None and not _repeats(structured, texts):
        content.insert(len(texts) if content[: len(texts)] == texts else 0, _written(structured))
    failed = bool(answer.get("isError"))
    if all(isinstance(one, str) for one in content):
        return "\n".join(map(str, content)), failed
    return content, failed


def _repeats(structured: Any, texts: list[str]) -> bool:
    """Whether texts say the same as structured content: servers write it out for those who read no other."""
    said = [_parsed(text) for text in texts]
    inner = structured.get("result") if isinstance(structured, Mapping) and len(structured) == 1 else None
    return structured in said or (inner is not None and (inner in [*texts, *said] or inner in (texts, said)))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _mcp_result(value: Any) -> dict[str, Any] | None:
    """A whole CallToolResult as a dict; the MCP libraries have a model and a dataclass for it."""
    if not isinstance(value, Mapping):
        names = {
            "isError": ("isError", "is_error"),
            "structuredContent": ("structuredContent", "structured_content"),
        }
        if not hasattr(value, "content") or not any(hasattr(value, name) for name in names["isError"]):
            return None
        found = {
            key: getattr(value, name) for key, both in names.items() for name in both if hasattr(value, name)
        }
        value = {"content": value.content, **found}
    parts = value.get("content")
    if not isinstance(parts, (list, tuple)) or not set(value) <= _MCP_RESULT:
        return None
    return {**value, "content": [_mcp_dict(part) for part in parts]}


def _mcp_dict(part: Any) -> Any:
    """A part that is an object as a dict; anything else as it is."""
    if isinstance(part, BaseModel) and getattr(part, "type", None) in _MCP_PARTS:
        return part.model_dump(mode="json", by_alias=True, exclude_none=True)
    return part


def _is_mcp_part(part: Any) -> bool:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str) or kind not in _MCP_PARTS:
        return False
    keys = set(part) - _MCP_NOTES
    return keys == _MCP_PARTS[kind] or (kind == "resource_link" and keys >= _MCP_PARTS[kind])


def _mcp_part(part: Mapping[str, Any]) -> str | Media:
    kind = part["type"]
    if kind == "text":
        return _written(part["text"])
    if kind == "resource_link":
        return _written({key: value for key, value in part.items() if key not in _MCP_NOTES})
    if kind == "resource":
        return _mcp_resource(part["resource"])
    return _mcp_medium(kind, part["data"])


def _mcp_resource(resource: Any) -> str | Media:
    if isinstance(resource, Mapping) and isinstance(resource.get("text"), str):
        return _clean(f"{resource.get('uri', '')}\n{resource['text']}".lstrip("\n"))
    kind = str(resource.get("mimeType")).partition("/")[0] if isinstance(resource, Mapping) else ""
    if kind in ("image", "audio"):
        return _mcp_medium(kind, resource.get("blob"))
    raise _Unreadable("an MCP resource that is neither text nor a picture or sound.")


def _mcp_medium(kind: str, data: Any) -> Media:
    try:
        content = data if isinstance(data, bytes) else base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise _Unreadable(f"an MCP {kind} whose data is no base64.") from error
    return Image(content) if kind == "image" else Audio(content)
