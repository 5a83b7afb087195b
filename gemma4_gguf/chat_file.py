"""Chat files: conversations with the state of the cache, so that nothing is decoded again.

One file: an 8-byte mark, the version of the format (uint32), the length of a JSON header (uint64), the
header, the blobs it lists (media, item numbers, the state as llama.cpp writes it), and the SHA-256 of all
before. Integers are little-endian. llama.cpp trusts a state it is given, so nothing reaches it before the
sizes and the checksum are right and the file is known to come from the same model, library and cache type.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal
from zipfile import BadZipFile

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from gemma4_gguf.engine import library
from gemma4_gguf.engine.engine import Engine
from gemma4_gguf.engine.kv_cache import Item, MediaSpan, SavedSequence
from gemma4_gguf.errors import EngineError, MessageError, SavedChatError, SchemaError, StateError, ToolError
from gemma4_gguf.files.atomic_write import PendingFile, output_error
from gemma4_gguf.media.decode import open_source
from gemma4_gguf.prompt.messages import Message, check_messages
from gemma4_gguf.tools import as_tools
from gemma4_gguf.truncation import OnFull
from gemma4_gguf.types import MODALITIES

MARK = b"g4chat\r\n"  # a transfer that changes line ends is noticed
VERSION = 2
_PREFIX = struct.Struct("<8sIQ")
_DIGEST_BYTES = 32
_SPAN = -1  # stands for a media span among token ids
_SAMPLES, _SAMPLE_BYTES = 256, 4096  # of a model file: enough to tell two apart, read in a moment
_BLOB = "blob"  # key of the number of a blob
_FORM = "form"  # of the bytes in it: "file" or "npy"
_WITHOUT = "load_chat(path, state=False) takes only what was said and decodes it again."


@dataclass(frozen=True)
class Origin:
    """What a state of the cache was computed with; another one would misread it.

    Files that are no longer there have no fingerprint.

    Args:
        model: name of the model.
        fingerprint: of its file.
        projector: fingerprint of the projector's file; None without one.
        llama_cpp: version of llama-cpp-python.
        kv_type: of the cache.
    """

    model: str
    fingerprint: str
    projector: str | None
    llama_cpp: str
    kv_type: str


@dataclass(frozen=True, kw_only=True)
class SavedChat:
    """A conversation as a file holds it.

    Args:
        messages: OpenAI-shaped dicts, oldest first.
        dropped: messages that were left out, oldest first.
        tools: declarations of what the model may call.
        thinking: the model thinks before each answer.
        on_full: what is done when the context is full.
        sequence: what the cache held of it; None if nothing, or if it was not wanted.
        origin: what that was computed with.
    """

    messages: list[Message]
    dropped: list[Message]
    tools: list[dict[str, Any]]
    thinking: bool
    on_full: OnFull
    sequence: SavedSequence | None
    origin: Origin


def write_chat_file(saved: SavedChat, path: str | Path) -> None:
    """Writes a conversation.

    Args:
        saved: it.
        path: written whole or not at all; what is there is replaced.

    Raises:
        MediaError: a picture, sound or clip is no longer there.
        MessageError: a message was edited into something that is none.
        OutputError: the file cannot be written.
    """
    blobs = Blobs()
    header: dict[str, Any] = {
        "messages": pack_messages(saved.messages, blobs),
        "dropped": pack_messages(saved.dropped, blobs),
        "tools": saved.tools or None,
        "thinking": saved.thinking,
        "on_full": saved.on_full,
        "state": None if saved.sequence is None else _pack_sequence(saved.sequence, blobs),
        "made_by": asdict(saved.origin),
    }
    header["blobs"] = [piece.nbytes for piece in blobs.pieces]
    text = json.dumps(header).encode()
    final = Path(path).expanduser()
    digest, offset = hashlib.sha256(), 0
    parts: list[bytes | memoryview] = [_PREFIX.pack(MARK, VERSION, len(text)), text, *blobs.pieces]
    with PendingFile(final) as file:
        try:
            for part in parts:
                digest.update(part)
                file.write_at(part, offset)
                offset += memoryview(part).nbytes
            file.write_at(digest.digest(), offset)
            os.fsync(file.fd)
            file.publish()
        except OSError as error:
            raise output_error(error, final) from error


def read_chat_file(path: str | Path, *, state: bool = True) -> SavedChat:
    """Reads a conversation.

    Args:
        path: of a file that `write_chat_file` wrote.
        state: read the state of the cache, too.

    Returns:
        The conversation; without the state its `sequence` is None.

    Raises:
        SavedChatError: the file is damaged, or of another version of the format.
    """
    header, blobs = _read(path)
    try:
        as_tools(header.tools)
        return SavedChat(
            messages=unpack_messages(header.messages, blobs),
            dropped=unpack_messages(header.dropped, blobs),
            tools=header.tools or [],
            thinking=header.thinking,
            on_full=header.on_full,
            sequence=_unpack_sequence(header.state, blobs) if state and header.state else None,
            origin=header.made_by,
        )
    except _DAMAGED as error:
        raise SavedChatError(f"{path} is no whole conversation: {_said(error)} Save it again.") from error


def origin_of(engine: Engine) -> Origin:
    """What the states of an engine are computed with.

    Args:
        engine: open.

    Returns:
        What has to be the same where such a state is put back.
    """
    projector = engine.projector
    return Origin(
        model=engine.facts.name,
        fingerprint=fingerprint(engine.facts.path),
        projector=None if projector is None else fingerprint(projector.layout.facts.path),
        llama_cpp=version(library.DISTRIBUTION),
        kv_type=engine.options.kv_type,
    )


def restore_sequence(engine: Engine, owner: object, saved: SavedChat, path: str | Path) -> None:
    """Puts the state of a conversation into the cache, unless this engine would misread it.

    Args:
        engine: to restore it in.
        owner: who goes on with it.
        saved: with its sequence.
        path: it was read from, for messages.

    Raises:
        SavedChatError: it is of another model, library or cache type, or llama.cpp does not take it.
        EngineError: all sequences are in mid-reply.
    """
    sequence = saved.sequence
    if sequence is None:
        return
    has_media = any(isinstance(item, MediaSpan) for item in sequence.items)
    _check_origin(engine, saved.origin, path, has_media=has_media)
    if sequence.n_past > engine.n_ctx:
        raise SavedChatError(
            f"{path} holds {sequence.n_past:,} tokens, the context {engine.n_ctx:,}. Open the session with a "
            "larger n_ctx."
        )
    try:
        engine.import_sequence(owner, sequence)
    except (StateError, MessageError) as error:
        raise SavedChatError(
            f"{path}: {error} Open the session with the options it was saved with (flash_attention, device), "
            f"or: {_WITHOUT}"
        ) from error


def fingerprint(path: Path) -> str:
    """Tells model files apart: SHA-256 of the size and of samples from all over the file.

    Args:
        path: a GGUF file.

    Returns:
        Hexadecimal digits; none if it is no longer there.
    """
    try:
        n_bytes = path.stat().st_size
        digest = hashlib.sha256(struct.pack("<Q", n_bytes))
        with path.open("rb") as stream:
            for i in range(_SAMPLES):
                stream.seek(max(0, n_bytes - _SAMPLE_BYTES) * i // (_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE_BYTES))
        return digest.hexdigest()
    except OSError:
        return ""


# The file


_Number = Annotated[int, Field(ge=0, strict=True)]
_Count = Annotated[int, Field(ge=1, lt=1 << 31, strict=True)]
_EXACT = ConfigDict(strict=True, extra="forbid")


class _State(BaseModel):
    """A sequence; the numbers are those of blobs."""

    model_config = _EXACT
    items: _Number
    spans: list[tuple[str, _Count, bool]]
    data: _Number


class _Header(BaseModel):
    """What the JSON of a file says."""

    model_config = _EXACT
    messages: list[dict[str, Any]]
    dropped: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    thinking: bool
    on_full: OnFull
    state: _State | None
    made_by: Origin
    blobs: list[_Number]


class _Medium(BaseModel):
    """A picture, sound or clip; fields of other kinds than its own are refused later."""

    model_config = _EXACT
    blob: _Number
    form: Literal["file", "npy"]
    image_tokens: Literal[70, 140, 280, 560, 1120, "auto"] | None = None
    sample_rate_hz: _Count = 1
    fps: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    frames: _Count = 1
    sound: bool = True


_HEADER = TypeAdapter(_Header)
# What reading a file can run into that nobody wrote whole.
_DAMAGED = (
    *(ArithmeticError, AttributeError, BadZipFile, EOFError, LookupError, MemoryError, OSError),
    *(RecursionError, TypeError, ValueError, MessageError, SchemaError, ToolError),
)


def _read(path: str | Path) -> tuple[_Header, list[memoryview]]:
    try:
        file = Path(path).expanduser()
        if file.exists() and not file.is_file():
            raise SavedChatError(f"{path} is no file. Pass one that Chat.save wrote.")
        with file.open("rb") as stream:
            prefix = stream.read(_PREFIX.size)
            if prefix[: len(MARK)] != MARK or len(prefix) < _PREFIX.size:
                raise SavedChatError(f"{path} is no saved conversation. Pass a file that Chat.save wrote.")
            content = memoryview(prefix + stream.read())
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SavedChatError(f"{str(path)[:200]!r} cannot be read: {reason}.") from error
    _, found, n_header = _PREFIX.unpack(prefix)
    if found != VERSION:
        raise SavedChatError(
            f"{path} is of version {found} of the format, this library reads {VERSION}. Load it with the "
            "library that saved it."
        )
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if len(content) < _PREFIX.size + _DIGEST_BYTES or hashlib.sha256(body).digest() != bytes(digest):
        raise SavedChatError(f"{path} is damaged or cut off: its checksum is wrong. Copy it again.")
    try:
        header = _HEADER.validate_json(bytes(body[_PREFIX.size : _PREFIX.size + n_header]))
    except ValidationError as error:
        raise SavedChatError(
            f"{path} has a header that cannot be read: {_said(error)} Save it again."
        ) from error
    blobs, at = [], _PREFIX.size + n_header
    for n_bytes in header.blobs:
        blobs.append(body[at : at + n_bytes])
        at += n_bytes
    if at != len(body):
        raise SavedChatError(f"{path} holds {len(body):,} bytes; its header says {at:,}. Save it again.")
    return header, blobs


def _said(error: Exception) -> str:
    """An error in one sentence."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}."
    return str(error)[:300] if isinstance(error, MessageError) else f"{error!r:.200}."


# The state


def _pack_sequence(sequence: SavedSequence, blobs: Blobs) -> dict[str, Any]:
    items = sequence.items
    ids = [item if isinstance(item, int) else _SPAN for item in items]
    spans = [[i.key, i.n_tokens, i.bidirectional] for i in items if isinstance(i, MediaSpan)]
    return {"items": blobs.add(np.array(ids, "<i4")), "spans": spans, "data": blobs.add(sequence.data)}


def _unpack_sequence(kept: _State, blobs: Sequence[memoryview]) -> SavedSequence:
    ids = np.frombuffer(blobs[kept.items], "<i4").tolist()
    if ids.count(_SPAN) != len(kept.spans):
        raise ValueError(f"{ids.count(_SPAN)} media, {len(kept.spans)} described")
    spans = iter([MediaSpan(key, n, _not_kept, both) for key, n, both in kept.spans])
    items: list[Item] = [next(spans) if i == _SPAN else int(i) for i in ids]
    return SavedSequence(tuple(items), np.frombuffer(blobs[kept.data], np.uint8))


def _not_kept() -> np.ndarray:
    raise EngineError("The embeddings of a saved picture or sound are not kept. Show it again.")


def _check_origin(engine: Engine, origin: Origin, path: str | Path, *, has_media: bool) -> None:
    """Refuses a state that this engine would misread."""
    ours = origin_of(engine)
    if not ours.fingerprint:
        raise SavedChatError(
            f"{engine.facts.path} is no longer there, so nobody can tell whether {path} belongs to it. Put "
            f"the model back, or: {_WITHOUT}"
        )
    if origin.fingerprint != ours.fingerprint:
        raise SavedChatError(
            f"{path} belongs to another model file ({origin.model}), this session has "
            f"{engine.facts.path.name}. Open that one, or: {_WITHOUT}"
        )
    if has_media and origin.projector != ours.projector:
        raise SavedChatError(
            f"{path} holds media encoded by another projector. Open it with that, or: {_WITHOUT}"
        )
    for what, theirs, own in (
        (library.DISTRIBUTION, origin.llama_cpp, ours.llama_cpp),
        ("kv_type", origin.kv_type, ours.kv_type),
    ):
        if theirs != own:
            raise SavedChatError(
                f"{path} was saved with {what} {theirs}, this session has {own}. Use the same, or: {_WITHOUT}"
            )


# Messages


class Blobs:
    """Pieces of bytes by number; equal ones are kept once."""

    def __init__(self) -> None:
        self.pieces: list[memoryview] = []
        self._known: dict[bytes, int] = {}

    def add(self, data: bytes | np.ndarray) -> int:
        """Adds a piece of bytes.

        Args:
            data: bytes, or an array of any dtype and shape.

        Returns:
            Its number; that of an equal piece if there is one.
        """
        piece = memoryview(data) if isinstance(data, bytes) else np.ascontiguousarray(data).data.cast("B")
        digest = hashlib.sha256(piece).digest()
        if digest not in self._known:
            self._known[digest] = len(self.pieces)
            self.pieces.append(piece)
        return self._known[digest]


def pack_messages(messages: Sequence[Mapping[str, Any]], blobs: Blobs) -> list[Message]:
    """Messages as JSON values, their media moved to blobs.

    Args:
        messages: OpenAI-shaped dicts; none at all are fine.
        blobs: takes the media.

    Returns:
        Dicts that JSON can hold; media name their blobs by number.

    Raises:
        MessageError: a message is malformed, or holds what JSON cannot.
        MediaError: media that cannot be read.
    """
    packed = []
    for message in check_messages(messages) if messages else []:
        content = message["content"]
        if isinstance(content, list):
            message = message | {"content": [_pack_part(part, blobs) for part in content]}
        packed.append(message)
    try:
        json.dumps(packed)
    except (TypeError, ValueError) as error:
        raise MessageError(f"The messages cannot be written as JSON: {error}.") from error
    return packed


def unpack_messages(packed: Sequence[Message], blobs: Sequence[memoryview]) -> list[Message]:
    """The messages that `pack_messages` packed.

    Args:
        packed: from a file.
        blobs: of the same file.

    Returns:
        OpenAI-shaped dicts, media as values.
    """
    messages = []
    for message in packed:
        content = message["content"]
        if isinstance(content, list):
            message = message | {"content": [_unpack_part(part, blobs) for part in content]}
        messages.append(message)
    return check_messages(messages) if messages else []


def _pack_part(part: Mapping[str, Any], blobs: Blobs) -> dict[str, Any]:
    kind = part["type"]
    if kind == "text":
        return dict(part)
    form, data = _encoded(part[kind].source, kind)
    fields = {name: getattr(part[kind], name) for name in MODALITIES[kind].fields}
    return {"type": kind, kind: {_BLOB: blobs.add(data), _FORM: form} | fields}


def _unpack_part(part: Mapping[str, Any], blobs: Sequence[memoryview]) -> dict[str, Any]:
    kind = part["type"]
    if kind == "text":
        return dict(part)
    medium = _Medium.model_validate_json(json.dumps(part[kind]))
    data = bytes(blobs[medium.blob])
    source = np.load(io.BytesIO(data), allow_pickle=False) if medium.form == "npy" else data
    fields = medium.model_dump(exclude={_BLOB, _FORM}, exclude_unset=True)
    return {"type": kind, kind: MODALITIES[kind].type(source, **fields)}


def _encoded(source: Any, kind: str) -> tuple[str, bytes]:
    if isinstance(source, (str, Path, bytes)):
        with open_source(source, MODALITIES[kind].noun) as stream:
            return "file", stream.read()
    buffer = io.BytesIO()
    if kind == "image":
        from gemma4_gguf.media.picture import read_image

        read_image(source).save(buffer, "PNG")
        return "file", buffer.getvalue()
    np.save(buffer, np.asarray(source), allow_pickle=False)
    return "npy", buffer.getvalue()
