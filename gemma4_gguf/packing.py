"""Messages ↔ JSON and bytes: what a saved conversation says, with its media inside.

Media are kept as the bytes of their files, so that they are prepared again exactly as they were. Pictures
that came as arrays or PIL images are kept as PNG, sounds that came as arrays as .npy.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gemma4_gguf.errors import MessageError
from gemma4_gguf.media.decode import data_uri_bytes, is_data_uri, open_source
from gemma4_gguf.requests import Message, check_messages
from gemma4_gguf.types import Audio, Image, Video

_BLOB = "blob"  # key of the number of a blob
_FORM = "form"  # of the bytes in it: "file" or "npy"
_KINDS: dict[str, type[Image | Audio | Video]] = {"image": Image, "audio": Audio, "video": Video}
_FIELDS = {
    "image": ("image_tokens",),
    "audio": ("sample_rate_hz",),
    "video": ("fps", "frames", "sound", "image_tokens"),
}


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
