"""Tool call reader: `call:name{key:value,…}`, as it should be and as models really write it.

A strict reader takes the native format. What it refuses goes to a lenient one that knows the usual slips
(JSON or Python quotes, `=` for `:`, parentheses, raw text, delimiters used as quotation marks, missing ends,
positional BEGIN_ARG blocks) and lets the tool's JSON schema decide where a value ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemma4_gguf.grammars.tool_dicts import openai_tools, property_names
from gemma4_gguf.reply.argument_types import deref, fit, literal, parse_json, properties
from gemma4_gguf.reply.lenient_arguments import MAX_DEPTH, Lenient, Unreadable, twice
from gemma4_gguf.reply.lexer import Piece
from gemma4_gguf.special_tokens import CHANNEL_CLOSE, CHANNEL_OPEN, QUOTE, unused_character

NAME = r"[^\s{}()\[\]\"',<>|]{1,128}"
"""Pattern of a tool's name in a call; it may have a namespace before it."""
_HEAD = re.compile(rf"[\s:-]*(?:call:)?\s*({NAME})\s*")  # models leave out or double parts of `call:`
_BEGINS = re.compile(rf"[\s:-]*({NAME})?\s{{0,8}}")
_ENDS_KEY = ('"', "'", "{", "}")
_LONGEST_HEAD = 256  # characters
_EMPTY_THOUGHT = re.compile(rf"{re.escape(CHANNEL_OPEN)}\s*(?:thought\s*)?{re.escape(CHANNEL_CLOSE)}")
_BLOCK = re.compile(r"BEGIN_ARG:?[ \t]*([^\n]*)\n(.*?)(?:\n?[ \t]*END_ARG|\Z)", re.DOTALL)


@dataclass(frozen=True)
class ReadCall:
    """A call that could be read, with a note for each thing that was mended."""

    name: str
    arguments: dict[str, Any]
    notes: tuple[str, ...] = ()


def tool_schemas(tools: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Schemas of the parameters of tools.

    Args:
        tools: dicts in the shape of OpenAI, Anthropic, MCP, Ollama or Gemini.

    Returns:
        JSON schema by tool name.

    Raises:
        ToolError: one is of no known shape.
    """
    functions = [tool["function"] for tool in openai_tools(tools)]
    return {function["name"]: function.get("parameters", {}) for function in functions}


def begins_call(body: str, schemas: Mapping[str, Any] | None) -> bool | None:
    """Whether a call follows its marker, or the marker is only mentioned.

    Args:
        body: what came after it so far.
        schemas: by declared name, None when no tools are known.

    Returns:
        None as long as more has to be seen.
    """
    head = _BEGINS.match(body)
    name, rest = (head.group(1), body[head.end() :]) if head else (None, body)
    if body.lstrip(" \t\r\n:-").startswith("call:") or (rest.startswith("{") and not name):
        return True
    if not rest:
        return None if len(body) <= _LONGEST_HEAD else False
    return bool(name and rest[0] in "{(" and (not schemas or declared_name(name, schemas)))


def names_tool(body: str, schemas: Mapping[str, Any] | None) -> bool:
    """Whether nothing but the name of a declared tool stands between the markers of a call.

    Args:
        body: what stands there.
        schemas: by declared name, None when no tools are known.

    Returns:
        False when no tools are known.
    """
    head = _BEGINS.fullmatch(body)
    return bool(head and head.group(1) and schemas and declared_name(head.group(1), schemas))


def read_call(
    pieces: Sequence[Piece],
    schemas: Mapping[str, dict[str, Any]] | None,
    *,
    closed: bool,
    cut: bool = False,
    force: bool = False,
) -> ReadCall | None:
    """Read what stands between `<|tool_call>` and its end.

    Args:
        pieces: text and markers, in order.
        schemas: parameter schema per declared tool, None when no tools are known.
        closed: `<tool_call|>` followed.
        cut: generation was stopped in the middle, so missing ends are not mended.
        force: accept a string that never ends.

    Returns:
        The call, or None if it cannot be read.
    """
    mark = unused_character(text for _, text in pieces)
    body = "".join(mark if kind == "quote" else text for kind, text in pieces)
    try:
        call = _read(body, mark, schemas, ends=closed or not cut, force=force)
        json.dumps(call.arguments)  # too deep a nesting is found here and not by the caller
        return call
    except (Unreadable, RecursionError):
        return None


def _read(
    body: str, mark: str, schemas: Mapping[str, dict[str, Any]] | None, *, ends: bool, force: bool
) -> ReadCall:
    notes: list[str] = []
    if body.lstrip().startswith("{"):
        return _read_json(body.replace(mark, '"'), schemas)
    head = _HEAD.match(body)
    if head is None:
        raise Unreadable
    name, schema = _resolve(head.group(1).rstrip(":"), schemas, notes)
    schema = {**schema, **deref(schema, schema)}
    rest = body[head.end() :]
    if not rest and ends and schemas and name in schemas:
        return ReadCall(name, {}, (*notes, "missing brackets were added"))
    if not rest.startswith(("{", "(")):
        if "BEGIN_ARG" not in rest:
            raise Unreadable
        arguments = _read_blocks(rest.replace(mark, '"'), schema, ends)
        notes.append("positional BEGIN_ARG blocks were read as arguments")
        return ReadCall(name, fit(arguments, schema, notes), tuple(notes))
    arguments = _read_arguments(rest, mark, schema, notes, ends=ends, force=force)
    arguments = fit(_restore(arguments, mark), schema, notes)
    known = properties(schema)
    if known:
        notes += [f"argument {key!r} is not declared" for key in arguments if key not in known]
    return ReadCall(name, arguments, tuple(dict.fromkeys(notes)))


def _read_arguments(
    rest: str, mark: str, schema: dict[str, Any], notes: list[str], *, ends: bool, force: bool
) -> dict[str, Any]:
    known = properties(schema)
    strict = None
    odd = [name for name in property_names(schema) if any(c in name for c in (":", *_ENDS_KEY))]
    reader = _Strict(rest, mark, sorted(odd, key=len, reverse=True))
    try:
        strict = reader.arguments()
    except Unreadable:
        pass
    # A key that is no identifier was no key: a delimiter inside a text split it.
    torn = strict is not None and known and any(k not in known and not _is_word(k) for k in strict)
    if strict is not None and not torn:
        notes += reader.notes
        return strict
    texts = [rest]
    if CHANNEL_CLOSE in rest:
        texts.append(_EMPTY_THOUGHT.sub("", rest))
    for text in texts:
        for known_only in (True, False) if known else (False,):
            try:
                lenient = Lenient(text, mark, schema, known_only=known_only, ends=ends, force=force)
                out = lenient.arguments()
            except Unreadable:
                continue
            notes += lenient.notes
            return out
    if strict is not None:
        notes += reader.notes
        return strict
    raise Unreadable


def declared_name(name: str, schemas: Mapping[str, Any]) -> str | None:
    """The declared tool that a call means.

    Args:
        name: as the model wrote it.
        schemas: by declared name.

    Returns:
        The same name, or the only one that differs in case or lacks a namespace; None where there is none.
    """
    if name in schemas:
        return name
    last = re.split(r"[:./]", name)[-1].casefold()
    close = [known for known in schemas if known.casefold() in (last, name.casefold())]
    return close[0] if len(close) == 1 else None


def _resolve(
    name: str, schemas: Mapping[str, dict[str, Any]] | None, notes: list[str]
) -> tuple[str, dict[str, Any]]:
    if not schemas:
        return name, {}
    known = declared_name(name, schemas)
    if known is None:
        notes.append("no tool of this name was declared")
        return name, {}
    if known != name:
        notes.append(f"the name {name!r} was read as {known!r}")
    return known, schemas[known]


def _read_json(body: str, schemas: Mapping[str, dict[str, Any]] | None) -> ReadCall:
    """`{"name": …, "arguments": {…}}`, the way other models write calls."""
    _, value = parse_json(body)
    arguments = value.get("arguments", value.get("parameters")) if isinstance(value, dict) else None
    if not isinstance(arguments, dict) or not isinstance(value.get("name"), str):
        raise Unreadable
    notes = ["the call was written as JSON"]
    others = {
        key: value[key] for key in value if key not in ("name", "arguments", "parameters", "id", "type")
    }
    if others:
        notes.append(f"what stood beside its name and arguments was dropped: {others}")
    name, schema = _resolve(value["name"], schemas, notes)
    return ReadCall(name, fit(arguments, schema, notes), tuple(notes))


def _read_blocks(rest: str, schema: dict[str, Any], ends: bool) -> dict[str, Any]:
    """BEGIN_ARG … END_ARG blocks: values in the order in which the parameters were declared."""
    known = properties(schema)
    rest = _EMPTY_THOUGHT.sub("", rest).replace(f"\n{CHANNEL_CLOSE}", "\n")
    blocks = list(_BLOCK.finditer(rest))
    if not blocks or (not ends and not blocks[-1].group().endswith("END_ARG")):
        raise Unreadable
    if _BLOCK.sub("", rest).strip(": \t\r\n"):
        raise Unreadable  # there is more than blocks
    out: dict[str, Any] = {}
    free = [key for key in known if key not in {block.group(1).strip() for block in blocks}]
    for block in blocks:
        key = block.group(1).strip()
        if key not in known:
            if key or not free:
                raise Unreadable
            key = free.pop(0)
        out[key] = block.group(2).lstrip("\n")
    return out


class _Strict:
    """The native format and nothing else; the first delimiter ends a string.

    Args:
        text: from the bracket on.
        mark: stands for a delimiter.
        names: declared keys that hold what would end a key, such as xml:lang; the longest first.
    """

    def __init__(self, text: str, mark: str, names: Sequence[str] = ()) -> None:
        self.text, self.mark, self.at, self.depth = text, mark, 0, 0
        self.names = names
        self.notes: list[str] = []

    def arguments(self) -> dict[str, Any]:
        out = self.object()
        if self.text[self.at :].strip():
            raise Unreadable
        return out

    def peek(self) -> str:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def take(self, char: str) -> bool:
        found = self.peek() == char
        self.at += found
        return found

    def object(self) -> dict[str, Any]:
        if not self.take("{"):
            raise Unreadable
        out: dict[str, Any] = {}
        if self.take("}"):
            return out
        while True:
            self.peek()
            name = next((name for name in self.names if self.text.startswith(f"{name}:", self.at)), "")
            colon = self.text.find(":", self.at + len(name))
            key = name or self.text[self.at : colon].strip()
            if colon < 0 or not key or (not name and any(c in key for c in (self.mark, *_ENDS_KEY))):
                raise Unreadable
            if key in out:
                self.notes.append(twice(key, out[key]))
            self.at = colon + 1
            out[key] = self.value()
            if self.take("}"):
                return out
            if not self.take(","):
                raise Unreadable

    def array(self) -> list[Any]:
        self.at += 1
        out: list[Any] = []
        if self.take("]"):
            return out
        while True:
            out.append(self.value())
            if self.take("]"):
                return out
            if not self.take(","):
                raise Unreadable

    def value(self) -> Any:
        char = self.peek()
        if char == self.mark:
            end = self.text.find(self.mark, self.at + 1)
            if end < 0:
                raise Unreadable
            out, self.at = self.text[self.at + 1 : end], end + 1
            return out
        if char and char in "{[":
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise Unreadable
            inner = self.object() if char == "{" else self.array()
            self.depth -= 1
            return inner
        found = re.compile(r"[\w.+-]+").match(self.text, self.at)
        if found is None or found.group() in ("None", "True", "False"):
            raise Unreadable
        known, out = literal(found.group())
        if not known:
            raise Unreadable
        self.at = found.end()
        return out


def _restore(value: Any, mark: str) -> Any:
    """Delimiters that are left in keys or texts become visible again."""
    if isinstance(value, dict):
        return {k.replace(mark, QUOTE): _restore(v, mark) for k, v in value.items()}
    if isinstance(value, list):
        return [_restore(v, mark) for v in value]
    return value.replace(mark, QUOTE) if isinstance(value, str) else value


def _is_word(key: str) -> bool:
    return re.fullmatch(r"[\w.$@/-]+", key) is not None
