"""GGUF header: its constants, and the bytes of metadata entries and tensor entries.

gguf's own writer packs the 800,000 strings of Gemma's vocabulary one call at a time and insists on writing
the weights too; here the header is one bytes object, so that its size and every offset are known before any
weight is read. Format: version 3 (ggml, docs/gguf.md).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf.constants import GGMLQuantizationType


@dataclass(frozen=True)
class Field:
    """One metadata entry.

    Args:
        key: GGUF key.
        value: a scalar, or a list for "ARRAY".
        gguf_type: name of a gguf.GGUFValueType: "UINT32", "ARRAY", …
        item_type: the same for the items of an array, else None.
    """

    key: str
    value: Any
    gguf_type: str
    item_type: str | None = None


MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32
QUANTIZATION_VERSION = 2
STRING, ARRAY = 8, 9
# Value type of the format → name and little-endian numpy type. Strings and arrays have no fixed size.
SCALARS = {
    0: ("UINT8", "<u1"),
    1: ("INT8", "<i1"),
    2: ("UINT16", "<u2"),
    3: ("INT16", "<i2"),
    4: ("UINT32", "<u4"),
    5: ("INT32", "<i4"),
    6: ("FLOAT32", "<f4"),
    7: ("BOOL", "?"),
    10: ("UINT64", "<u8"),
    11: ("INT64", "<i8"),
    12: ("FLOAT64", "<f8"),
}
_TYPE_IDS = {name: kind for kind, (name, _) in SCALARS.items()} | {"STRING": STRING, "ARRAY": ARRAY}
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


@dataclass(frozen=True)
class TensorEntry:
    """A tensor as the header lists it.

    Args:
        name: GGUF name.
        shape: numpy order.
        type: ggml type name.
        n_bytes: size of the data without padding.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    n_bytes: int


@dataclass(frozen=True)
class Header:
    """A packed header.

    Args:
        data: its bytes, padded up to the first tensor.
        offsets: start of every tensor's data in the file, in bytes.
        file_bytes: size of the whole file.
    """

    data: bytes
    offsets: tuple[int, ...]
    file_bytes: int


def pad(n: int, alignment: int = ALIGNMENT) -> int:
    """Rounds up to a multiple of the alignment.

    Args:
        n: bytes, 0 or more.
        alignment: bytes, 1 or more.

    Returns:
        The smallest multiple that is not below n.
    """
    return (n + alignment - 1) // alignment * alignment


def pack_header(entries: Sequence[bytes], tensors: Iterable[TensorEntry]) -> Header:
    """Packs the header of a file and lays out its tensors.

    Args:
        entries: packed metadata entries.
        tensors: in file order.

    Returns:
        The bytes, the offsets and the size of the file.
    """
    offsets, listed, position = [], [], 0
    for tensor in tensors:
        offsets.append(position)
        listed.append(
            _text(tensor.name)
            + _U32.pack(len(tensor.shape))
            + struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape))
            + _U32.pack(GGMLQuantizationType[tensor.type].value)
            + _U64.pack(position)
        )
        position += pad(tensor.n_bytes)
    counts = _U32.pack(VERSION) + _U64.pack(len(listed)) + _U64.pack(len(entries))
    data = b"".join((MAGIC, counts, *entries, *listed))
    start = pad(len(data))
    return Header(data.ljust(start, b"\0"), tuple(start + offset for offset in offsets), start + position)


def pack_fields(fields: Iterable[Field]) -> list[bytes]:
    """Packs metadata entries, each as key, type and value.

    Args:
        fields: in file order.

    Returns:
        One bytes object each.
    """
    return [_text(field.key) + _typed(field) for field in fields]


def place_file_type(fields: Sequence[Field], file_type: int, *, at_end: bool) -> list[Field]:
    """Adds the two entries that follow from the output type where upstream has them.

    Args:
        fields: metadata without them.
        file_type: number of llama.cpp's llama_ftype.
        at_end: as its quantizer leaves them; otherwise as its converter writes them.

    Returns:
        The whole metadata, in file order.
    """
    kept = [f for f in fields if f.key not in ("general.file_type", "general.quantization_version")]
    kind = Field("general.file_type", file_type, "UINT32")
    version = Field("general.quantization_version", QUANTIZATION_VERSION, "UINT32")
    if at_end:
        return [*kept, version, kind]
    after = [i + 1 for i, field in enumerate(kept) if field.key.endswith(".attention.value_length")]
    before = [i for i, field in enumerate(kept) if field.key.startswith("clip.")]
    kept.insert((after or before or [len(kept)])[0], kind)
    vocabulary = [i for i, field in enumerate(kept) if field.key == "tokenizer.ggml.model"]
    kept.insert((vocabulary or [len(kept)])[0], version)
    return kept


def _typed(field: Field) -> bytes:
    if field.gguf_type != "ARRAY":
        return _U32.pack(_TYPE_IDS[field.gguf_type]) + _values(field.gguf_type, [field.value])
    if field.item_type is None:
        raise TypeError(f"{field.key} is an array without an item type")
    head = _U32.pack(ARRAY) + _U32.pack(_TYPE_IDS[field.item_type]) + _U64.pack(len(field.value))
    return head + _values(field.item_type, field.value)


def _values(kind: str, values: Sequence[Any]) -> bytes:
    if kind == "STRING":
        return b"".join(map(_text, values))
    return np.array(values, SCALARS[_TYPE_IDS[kind]][1]).tobytes()


def _text(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return _U64.pack(len(data)) + data
