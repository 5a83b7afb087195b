"""Conversations in files: what was said, and the state of the cache, so that nothing is decoded again.

One file: an 8-byte mark, the version of the format (uint32), the length of a JSON header (uint64), the
header, the blobs it lists (media, item numbers, the state as llama.cpp writes it), and the SHA-256 of all
before. Integers are little-endian. llama.cpp trusts a state it is given, so nothing reaches it before the
sizes and the checksum are right and the file is known to come from the same model, library and cache type.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gemma4_gguf.engine import library
from gemma4_gguf.engine.kv_cache import Item, MediaSpan, n_positions
from gemma4_gguf.errors import EngineError, SavedChatError
from gemma4_gguf.files.atomic_write import PendingFile, output_error
from gemma4_gguf.prompt.messages import Message
from gemma4_gguf.tools import declarations

if TYPE_CHECKING:
    from gemma4_gguf.chat import Chat
    from gemma4_gguf.session import Session

import io
from collections.abc import Mapping

from gemma4_gguf.errors import MessageError
from gemma4_gguf.media.decode import data_uri_bytes, is_data_uri, open_source
from gemma4_gguf.prompt.messages import check_messages
from gemma4_gguf.types import Audio, Image, Video

_BLOB = "blob"  # key of the number of a blob
_FORM = "form"  # of the bytes in it: "file" or "npy"
_KINDS: dict[str, type[Image | Audio | Video]] = {"image": Image, "audio": Audio, "video": Video}
_FIELDS = {
    "image": ("image_tokens",),
    "audio": ("sample_rate_hz",),
    "video": ("fps", "frames", "sound", "image_tokens"),
}


MARK = b"g4chat\r\n"  # a transfer that changes line ends is noticed
VERSION = 1
_PREFIX = struct.Struct("<8sIQ")
_DIGEST_BYTES = 32
_SPAN = -1  # stands for a media span among token ids
_SAMPLES, _SAMPLE_BYTES = 256, 4096  # of a model file: enough to tell two apart, read in a moment
_WITHOUT = "load_chat(path, state=False) takes only what was said and decodes it again."


def save_chat(chat: Chat, path: str | Path) -> None:
    """Writes a conversation; `Chat.save` says more."""
    session, blobs = chat._session, Blobs()
    header: dict[str, Any] = {
        "messages": pack_messages(chat.messages, blobs),
        "dropped": pack_messages(chat.dropped, blobs),
        "tools": declarations(chat.tools),
        "thinking": chat.thinking,
        "on_full": chat.on_full,
        "state": _pack_state(chat, blobs),
        "made_by": _made_by(session),
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


def load_chat(session: Session, path: str | Path, chat: Chat, *, state: bool) -> None:
    """Fills a new chat from a file; `Session.load_chat` says more."""
    saved = _read(Path(path).expanduser())
    header = saved.header
    try:
        messages = unpack_messages(header["messages"], saved.blobs)
        dropped = unpack_messages(header["dropped"], saved.blobs)
        if chat.tools is None:
            chat.tools = header["tools"]
        chat.thinking, chat.on_full = bool(header["thinking"]), header["on_full"]
        kept = header["state"] if state else None
        items = _unpack_items(kept, saved.blobs) if kept else []
        data = np.frombuffer(saved.blobs[kept["data"]], np.uint8) if kept else None
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise SavedChatError(f"{path} is no whole conversation ({error!r}). Save it again.") from error
    if data is not None:
        _check_origin(
            session, header["made_by"], path, has_media=any(isinstance(i, MediaSpan) for i in items)
        )
        _restore(session, chat, items, data, path)
    chat.messages, chat.dropped = messages, dropped


def fingerprint(path: Path) -> str:
    """Tells model files apart: SHA-256 of the size and of samples from all over the file."""
    n_bytes = path.stat().st_size
    digest = hashlib.sha256(struct.pack("<Q", n_bytes))
    with path.open("rb") as stream:
        for i in range(_SAMPLES):
            stream.seek(max(0, n_bytes - _SAMPLE_BYTES) * i // (_SAMPLES - 1))
            digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()


# The file


@dataclass(frozen=True)
class _Saved:
    header: dict[str, Any]
    blobs: list[memoryview]


def _read(path: Path) -> _Saved:
    try:
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise SavedChatError(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(content) < _PREFIX.size + _DIGEST_BYTES or bytes(content[: len(MARK)]) != MARK:
        raise SavedChatError(f"{path} is no saved conversation. Pass a file that Chat.save wrote.")
    _, found, n_header = _PREFIX.unpack(content[: _PREFIX.size])
    if found != VERSION:
        raise SavedChatError(
            f"{path} is of version {found} of the format, this library reads {VERSION}. Load it with the "
            "library that saved it."
        )
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != bytes(digest):
        raise SavedChatError(f"{path} is damaged or cut off: its checksum is wrong. Copy it again.")
    try:
        header = json.loads(bytes(body[_PREFIX.size : _PREFIX.size + n_header]))
        blobs, at = [], _PREFIX.size + n_header
        for n_bytes in header["blobs"]:
            blobs.append(body[at : at + n_bytes])
            at += n_bytes
    except (ValueError, LookupError, TypeError) as error:
        raise SavedChatError(f"{path} has a header that cannot be read ({error}). Save it again.") from error
    if at != len(body):
        raise SavedChatError(f"{path} holds {len(body):,} bytes; its header says {at:,}. Save it again.")
    return _Saved(header, blobs)


# The state


def _made_by(session: Session) -> dict[str, Any]:
    projector = session._projector.layout.facts.path if session._projector is not None else None
    return {
        "model": {"name": session.name, "fingerprint": fingerprint(session.facts.path)},
        "projector": fingerprint(projector) if projector is not None else None,
        "llama_cpp": version(library.DISTRIBUTION),
        "kv_type": session.options.kv_type,
    }


def _pack_state(chat: Chat, blobs: Blobs) -> dict[str, Any] | None:
    """What the next turn of a chat would keep of its sequence: the state right there, and nothing else.

    A state can only be gone on from, as the window before any earlier place is not in it. So the sequence
    goes back first to where the next prompt will leave it.
    """
    engine = chat._session._engine
    with engine.pool.lend_own(chat) as state:
        if state is None or not chat.messages:
            return None
        prompt = chat._session.prompt(
            [*chat.messages, *_next_messages(chat.messages)],
            tools=chat.tools,
            thinking=chat.thinking,
            image_tokens=chat.image_tokens,
        )
        with engine.context.lock:
            engine.context.fit(state, prompt.items)
            if not state.items:
                return None
            data = engine.context.reuse.read(state)
        items = list(state.items)
    ids = [item if isinstance(item, int) else _SPAN for item in items]
    spans = [[i.key, i.n_tokens, i.bidirectional] for i in items if isinstance(i, MediaSpan)]
    return {"items": blobs.add(np.array(ids, "<i4")), "spans": spans, "data": blobs.add(data)}


def _next_messages(messages: Sequence[Message]) -> list[Message]:
    """What may come next: results for open calls, else something the user says."""
    last = messages[-1]
    calls = last.get("tool_calls") if last["role"] == "assistant" else None
    if calls:
        return [{"role": "tool", "tool_call_id": call.get("id"), "content": "-"} for call in calls]
    return [] if last["role"] in ("user", "tool") else [{"role": "user", "content": "-"}]


def _unpack_items(kept: dict[str, Any], blobs: Sequence[memoryview]) -> list[Item]:
    ids = np.frombuffer(blobs[kept["items"]], "<i4").tolist()
    if ids.count(_SPAN) != len(kept["spans"]):
        raise ValueError(f"{ids.count(_SPAN)} media, {len(kept['spans'])} described")
    spans = iter([MediaSpan(key, int(n), _not_kept, bool(both)) for key, n, both in kept["spans"]])
    return [next(spans) if i == _SPAN else int(i) for i in ids]


def _not_kept() -> np.ndarray:
    raise EngineError("The embeddings of a saved picture or sound are not kept. Show it again.")


def _check_origin(session: Session, made_by: dict[str, Any], path: str | Path, *, has_media: bool) -> None:
    """Refuses a state that this session would misread."""
    ours = _made_by(session)
    if made_by["model"]["fingerprint"] != ours["model"]["fingerprint"]:
        raise SavedChatError(
            f"{path} belongs to another model file ({made_by['model']['name']}), this session has "
            f"{session.facts.path.name}. Open that one, or: {_WITHOUT}"
        )
    if has_media and made_by["projector"] != ours["projector"]:
        raise SavedChatError(
            f"{path} holds media encoded by another projector. Open it with that, or: {_WITHOUT}"
        )
    for key, what in (("llama_cpp", library.DISTRIBUTION), ("kv_type", "kv_type")):
        if made_by[key] != ours[key]:
            raise SavedChatError(
                f"{path} was saved with {what} {made_by[key]}, this session has {ours[key]}. Use the same, "
                f"or: {_WITHOUT}"
            )


def _restore(session: Session, chat: Chat, items: Sequence[Item], data: np.ndarray, path: str | Path) -> None:
    engine = session._engine
    if n_positions(items) > engine.context.n_ctx:
        raise SavedChatError(
            f"{path} holds {n_positions(items):,} tokens, the context {engine.context.n_ctx:,}. Open the "
            "session with a larger n_ctx."
        )
    with engine.pool.lend(items, chat) as state, engine.context.lock, library.complaints() as said:
        engine.context.require_open()
        if not engine.context.reuse.write(state, items, data):
            raise SavedChatError(
                f"llama.cpp does not take the state in {path}. Open the session with the options it was "
                f"saved with (flash_attention, device), or: {_WITHOUT}{library.quote(said)}"
            )


class Blobs:
    """Pieces of bytes by number; equal ones are kept once."""

    def __init__(self) -> None:
        self.pieces: list[memoryview] = []
        self._known: dict[bytes, int] = {}

    def add(self, data: bytes | np.ndarray) -> int:
        """Returns the number of a piece."""
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
    """The messages that `pack_messages` packed."""
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
    fields = {name: getattr(part[kind], name) for name in _FIELDS[kind]}
    return {"type": kind, kind: {_BLOB: blobs.add(data), _FORM: form} | fields}


def _unpack_part(part: Mapping[str, Any], blobs: Sequence[memoryview]) -> dict[str, Any]:
    kind = part["type"]
    if kind == "text":
        return dict(part)
    fields = dict(part[kind])
    data = bytes(blobs[fields.pop(_BLOB)])
    source = np.load(io.BytesIO(data), allow_pickle=False) if fields.pop(_FORM) == "npy" else data
    return {"type": kind, kind: _KINDS[kind](source, **fields)}


def _encoded(source: Any, kind: str) -> tuple[str, bytes]:
    if isinstance(source, str) and is_data_uri(source):
        return "file", data_uri_bytes(source)
    if isinstance(source, (str, Path, bytes)):
        with open_source(source, {"image": "picture", "audio": "sound", "video": "clip"}[kind]) as stream:
            return "file", stream.read()
    buffer = io.BytesIO()
    if kind == "image":
        from gemma4_gguf.media.image import read_image

        read_image(source).save(buffer, "PNG")
        return "file", buffer.getvalue()
    np.save(buffer, np.asarray(source), allow_pickle=False)
    return "npy", buffer.getvalue()
