"""Message checks: what callers hand in, messages of several APIs and loose parts → one checked form.

Checked messages are plain dicts in OpenAI's shape, except that media parts hold the value types of
`types`: {"type": "text", "text": …}, {"type": "image", "image": Image}, {"type": "audio", "audio":
Audio}. Tool calls carry their arguments as objects. Checking twice changes nothing. Every refusal names the
place, such as messages[2].content[0], and nothing that says something is dropped.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel

from gemma4_gguf.errors import MessageError
from gemma4_gguf.prompt.fields import Fields, shown
from gemma4_gguf.prompt.parts import (
    KNOWN_TYPES,
    Content,
    is_pil,
    loose_part,
    media_part,
    read_parts,
    read_texts,
)
from gemma4_gguf.prompt.sources import MAX_PATH, from_base64, is_file
from gemma4_gguf.types import Media, ToolCall, holds, modality_of

ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_DEPTH = 100  # of the arguments of a call
_ROLE_NAMES = {"model": "assistant", "function": "tool"}
_ITEMS = ("function_call", "function_call_output", "reasoning")
_RESPONSES = ("functionResponse", "function_response")
_SURROGATE = re.compile("[\ud800-\udfff]")
_PART_TYPES = frozenset(KNOWN_TYPES)

Message = dict[str, Any]


def check_messages(messages: Sequence[Any]) -> list[Message]:
    """Checks a conversation and brings it into the one form.

    Args:
        messages: dicts as OpenAI, Anthropic, Gemini or Ollama write them, oldest first.

    Returns:
        New dicts; the given ones are left alone. One with results of tools beside other content becomes
        several.

    Raises:
        MessageError: a role, a key or a part is unknown or malformed.
    """
    return [checked for group in check_each(messages) for checked in group]


def check_each(messages: Sequence[Any]) -> list[list[Message]]:
    """As `check_messages`, message by message.

    Args:
        messages: as there.

    Returns:
        For each message what it becomes; nothing for a call that belongs to the message before it.

    Raises:
        MessageError: as there.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise MessageError(f"messages is a {type(messages).__name__}; expected a list of dicts.")
    if not messages:
        raise MessageError("There are no messages; expected at least one.")
    groups = []
    for i, message in enumerate(messages):
        try:
            groups.append(_check_message(message, f"messages[{i}]"))
            _require_characters(groups[-1], f"messages[{i}]")
            if i and _is_item(message, "function_call") and _is_item(messages[i - 1], "function_call"):
                first = next(group for group in reversed(groups[:-1]) if group)
                first[0]["tool_calls"] += groups[-1].pop()["tool_calls"]
        except RecursionError as error:
            raise MessageError(f"messages[{i}] is nested too deeply, or holds itself.") from error
    return groups


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
    return {"role": "user", "content": [loose_part(part, f"part {i}") for i, part in enumerate(parts)]}


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


def _check_message(message: Any, where: str) -> list[Message]:
    if not isinstance(message, (Mapping, BaseModel)):
        raise MessageError(f"{where} is a {type(message).__name__}; expected a dict with role and content.")
    fields = Fields(message, where)
    kind, role = fields.take("type"), fields.take("role")
    if role is None and kind in _ITEMS:
        return _item(kind, fields)
    role = _ROLE_NAMES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise MessageError(f"{where} has the role {shown(role)}; expected one of {', '.join(ROLES)}.")
    if role == "tool":
        return _tool_messages(fields)
    read, content = _content(fields)
    read.thoughts += _thoughts(fields)
    read.calls += _calls(fields)
    read.results += _listed(fields, "tool_responses")
    name = fields.take("name")
    fields.done()
    checked: Message = {"role": role, "content": content}
    if read.calls and role != "assistant":
        raise MessageError(f"{where} is of the {role} and has tool_calls; only the assistant calls tools.")
    if read.thoughts and role != "assistant":
        raise MessageError(f"{where} is of the {role} and has a thought; only the assistant thinks.")
    if content is None and role != "assistant" and not read.results:
        raise MessageError(f"{where} of the {role} has no content.")
    if read.thoughts:
        checked["reasoning_content"] = "\n\n".join(read.thoughts)
    if read.calls:
        checked["tool_calls"] = [_check_call(call, place) for place, call in read.calls]
    if name is not None:
        checked["name"] = _text(name, f"{where}.name")
    answers = [answer for place, result in read.results for answer in _tool_messages(Fields(result, place))]
    if role == "assistant":
        return [checked, *answers]
    return answers if content is None else [*answers, checked]


def _is_item(message: Any, kind: str) -> bool:
    return isinstance(message, Mapping) and message.get("type") == kind and message.get("role") is None


def _item(kind: str, fields: Fields) -> list[Message]:
    """An item of OpenAI's Responses API that is no message."""
    if kind == "function_call_output":
        return _tool_messages(fields)
    if kind == "function_call":
        call = {name: fields.take(name) for name in ("call_id", "name", "arguments")}
        fields.done()
        return [{"role": "assistant", "content": None, "tool_calls": [_check_call(call, fields.where)]}]
    said, summary = fields.take("content"), fields.take("summary")
    fields.done()
    thought = read_texts(said or summary or "", fields.where)
    return [{"role": "assistant", "content": None} | ({"reasoning_content": thought} if thought else {})]


def _content(fields: Fields) -> tuple[Content, Any]:
    """What a message holds, and its content in the checked form: text, a list of parts or None."""
    where, given, refusal = fields.where, fields.take("content", "parts"), fields.take("refusal")
    images = fields.take("images") or ()
    if holds(refusal):
        if holds(given):
            raise MessageError(f"{where} has content and refusal; expected one.")
        given = refusal
    if isinstance(given, str) and not images:
        return Content(), given
    if given is None and not images:
        return Content(), None
    if isinstance(given, (str, Mapping, BaseModel)):
        given = [{"type": "text", "text": given} if isinstance(given, str) else given]
    given = () if given is None else given
    if isinstance(given, (bytes, bytearray)) or not isinstance(given, Sequence):
        raise MessageError(f"{where}.content is a {type(given).__name__}; expected text or a list of parts.")
    read = read_parts(given, f"{where}.content")
    if isinstance(images, (str, bytes)) or not isinstance(images, Sequence):
        raise MessageError(f"{where}.images is a {type(images).__name__}; expected a list.")
    read.parts[:0] = [_image(image, f"{where}.images[{i}]") for i, image in enumerate(images)]
    other = read.thoughts or read.calls or read.results
    return read, None if other and not read.parts else read.parts


def _image(value: Any, where: str) -> dict[str, Any]:
    """A picture as Ollama takes it: base64, bytes or a path."""
    in_base64 = isinstance(value, str) and (len(value) > MAX_PATH or not is_file(Path(value)))
    return media_part("image", from_base64(value, where) if in_base64 else value, where)


def _thoughts(fields: Fields) -> list[str]:
    said = fields.take("reasoning_content", "reasoning", "thinking")
    # The same once more in pieces; those in the cipher of a provider say nothing to anybody else.
    pieces = fields.take("reasoning_details", "thinking_blocks")
    if not holds(said):
        said = pieces
        if isinstance(pieces, list) and all(isinstance(piece, Mapping) for piece in pieces):
            said = [p.get("text") or p.get("summary") or p.get("thinking") or "" for p in pieces]
    thought = read_texts(said, f"{fields.where}.reasoning_content") if holds(said) else ""
    return [thought] if thought else []


def _listed(fields: Fields, name: str) -> list[tuple[str, Any]]:
    where, values = f"{fields.where}.{name}", fields.take(name)
    if not holds(values):
        return []
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Sequence):
        raise MessageError(f"{where} is a {type(values).__name__}; expected a list.")
    return [(f"{where}[{i}]", value) for i, value in enumerate(values)]


# Calls and results


def _calls(fields: Fields) -> list[tuple[str, Any]]:
    calls, one = _listed(fields, "tool_calls"), fields.take("function_call")
    return calls if one is None else [*calls, (f"{fields.where}.function_call", one)]


def _check_call(call: Any, where: str) -> Message:
    if isinstance(call, ToolCall):
        call = {"id": call.id, "name": call.name, "arguments": call.arguments}
    if not isinstance(call, (Mapping, BaseModel)):
        raise MessageError(
            f'{where} is {shown(call)}; expected {{"function": {{"name": …, "arguments": …}}}}.'
        )
    fields = Fields(call, where)
    fields.take("type")
    by_item, given = fields.take("call_id"), fields.take("id")
    inner = fields.take("function", "functionCall", "function_call")
    if inner is not None:
        fields.done()
        fields = Fields(inner, f"{where}.function")
        given = given if given is not None else fields.take("id")
    name, arguments = fields.take("name"), fields.take("arguments", "args", "input", "parameters")
    if not isinstance(name, str) or not name:
        raise MessageError(
            f'{where} is {shown(call)}; expected {{"function": {{"name": …, "arguments": …}}}}.'
        )
    fields.done()
    function = {"name": name, "arguments": _arguments(arguments, f"{fields.where}.arguments")}
    number = _id(by_item if by_item is not None else given, f"{where}.id")
    return ({} if number is None else {"id": number}) | {"type": "function", "function": function}


def _arguments(given: Any, where: str) -> dict[str, Any]:
    if isinstance(given, str):
        try:
            given = json.loads(given or "{}", parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise MessageError(f"{where} is no JSON: {error}.") from error
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise MessageError(f"{where} is {shown(given)}; expected a JSON object.")
    plain: dict[str, Any] = _plain(given, where, 0)
    return plain


def _plain(value: Any, where: str, depth: int) -> Any:
    """A JSON value, copied."""
    if depth > MAX_DEPTH:
        raise MessageError(f"{where[:200]}… is nested more than {MAX_DEPTH} levels deep.")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise MessageError(f"{where} has the key {shown(key)}; expected text, as in JSON.")
        return {key: _plain(item, f"{where}.{key[:40]}", depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    if (
        value is None
        or isinstance(value, (str, bool, int))
        or (isinstance(value, float) and math.isfinite(value))
    ):
        return value
    raise MessageError(f"{where} is {shown(value)}, which JSON cannot hold.")


def _tool_messages(fields: Fields) -> list[Message]:
    """What a tool returned: one message, or several where several results stand in one."""
    where = fields.where
    fields.take("type")
    inner = fields.take("functionResponse", "function_response")
    number = None
    if inner is not None:
        fields.done()
        fields = Fields(inner, where)
        number = fields.take("id")
    given = fields.take("tool_call_id", "call_id", "tool_use_id")
    number = _id(given if given is not None else number, f"{where}.tool_call_id")
    name = fields.take("name", "tool_name")
    content, failed = (
        fields.take("content", "parts", "output", "response"),
        fields.take("is_error", "isError"),
    )
    fields.done()
    read, content, failed = _result(content, failed, f"{where}.content")
    if read.results and not read.parts:
        return [
            message for place, result in read.results for message in _tool_messages(Fields(result, place))
        ]
    if read.results or read.calls or read.thoughts:
        raise MessageError(
            f"{where} is the result of a tool; expected text and media in it and nothing else."
        )
    checked: Message = {"role": "tool", "content": _failure(content) if failed else content}
    if number is not None:
        checked["tool_call_id"] = number
    if name is not None:
        checked["name"] = _text(name, f"{where}.name")
    return [checked]


def _result(content: Any, failed: Any, where: str) -> tuple[Content, Any, bool]:
    """What a result holds: its parts, its content in the checked form, and whether the tool failed."""
    if content is None or isinstance(content, str):
        return Content(), content, bool(failed)
    if isinstance(content, BaseModel):
        content = content.model_dump(mode="json", exclude_none=True)
    if isinstance(content, Mapping) and _are_parts(content.get("content")):  # a CallToolResult of MCP
        fields = Fields(content, where)
        content, failed = fields.take("content"), failed or fields.take("isError", "is_error")
        fields.take("structuredContent")  # the same once more
        fields.done()
    values = [content] if _is_part(content) else content
    if _are_parts(values):
        read = read_parts([{"type": "text", "text": v} if isinstance(v, str) else v for v in values], where)
        return read, read.parts, bool(failed)
    return Content(), json.dumps(_plain(content, where, 0), ensure_ascii=False), bool(failed)


def _are_parts(values: Any) -> bool:
    """Whether a list is one of parts, maybe unknown ones among them, and no data, such as texts alone."""
    if not isinstance(values, (list, tuple)) or not any(map(_is_part, values)):
        return False
    typed = (isinstance(value, Mapping) and isinstance(value.get("type"), str) for value in values)
    return all(isinstance(v, str) or of_type or _is_part(v) for v, of_type in zip(values, typed, strict=True))


def _is_part(value: Any) -> bool:
    if isinstance(value, Mapping):
        kind = value.get("type")
        return (isinstance(kind, str) and kind in _PART_TYPES) or any(key in value for key in _RESPONSES)
    return modality_of(value) is not None or is_pil(value) or isinstance(value, os.PathLike)


def _failure(content: Any) -> Any:
    if isinstance(content, list):
        return [{"type": "text", "text": "The tool failed. "}, *content]
    return json.dumps({"error": content}, ensure_ascii=False)


# Values


def _id(value: Any, where: str) -> str | None:
    """An id: text, or a number that becomes text; an empty one is none."""
    if value is None or value == "":
        return None
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    raise MessageError(f"{where} is a {type(value).__name__}; expected text or a whole number.")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise MessageError(f"{where} is a {type(value).__name__}; expected text.")
    return value


def _require_characters(value: Any, where: str) -> None:
    if isinstance(value, str):
        half = _SURROGATE.search(value)
        if half is not None:
            before = value[max(0, half.start() - 20) : half.start()]
            raise MessageError(
                f"{where}: {half[0]!r} after {before!r} is half a surrogate pair, which is no character. "
                "Decode where it comes from as UTF-8."
            )
    elif isinstance(value, dict):
        for key, item in value.items():
            _require_characters(key, where)
            _require_characters(item, f"{where}.{key[:40]}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _require_characters(item, where if isinstance(item, dict) and "role" in item else f"{where}[{i}]")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
