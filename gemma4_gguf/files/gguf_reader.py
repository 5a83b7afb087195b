"""GGUF reader: a strict one, whose results can be trusted against the bytes of the file.

llama.cpp ends the whole process on some damaged files, so everything is checked here first: every length,
every offset and the end of the last tensor. Weights are never read. Versions 2 and 3 (ggml, docs/gguf.md).
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from gemma4_gguf.errors import GGUFError
from gemma4_gguf.files.gguf_header import ALIGNMENT, ARRAY, MAGIC, SCALARS, STRING, pad
from gemma4_gguf.files.read_at import fill

MODEL_ARCHITECTURE, DRAFTER_ARCHITECTURE = "gemma4", "gemma4-assistant"
MODEL_ARCHITECTURES = (MODEL_ARCHITECTURE, DRAFTER_ARCHITECTURE)
PROJECTOR_ARCHITECTURE = "clip"
PROJECTOR_TYPES = ("gemma4v", "gemma4a", "gemma4uv", "gemma4ua")

Stamp = tuple[int, int, int, int]  # device, inode, size in bytes, time of change in ns

_VERSIONS = (2, 3)
_MAX_DIMS = 4
_PLAIN = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file.

    Args:
        name: GGUF name.
        shape: numpy order, slowest dimension first, row length last.
        type: ggml type name, such as "BF16" or "Q4_K".
        offset: bytes from the start of the file.
        n_bytes: size of the data without padding.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    n_bytes: int

    @property
    def row_length(self) -> int:
        """Numbers in a row."""
        return self.shape[-1]

    @property
    def n_elements(self) -> int:
        """Numbers in all."""
        return _product(self.shape)

    @property
    def n_rows(self) -> int:
        """Rows, all dimensions but the last taken together."""
        return self.n_elements // self.row_length


@dataclass(frozen=True)
class FieldSpan:
    """Where one metadata entry lies in the header: [start, stop) covers key, type and value."""

    start: int
    stop: int
    value: int
    type: int
    item_type: int | None
    count: int


class Metadata(Mapping[str, Any]):
    """Metadata of a file by key, in file order. Values are decoded when asked for: vocabularies are large.

    Strings are str, numbers int, float or bool, arrays lists.
    """

    def __init__(self, header: bytes, spans: dict[str, FieldSpan]) -> None:
        self._header = header
        self._spans = spans
        self._values: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            self._values[key] = _decode(self._header, key, self._spans[key])
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)

    def length(self, key: str) -> int:
        """Items of an array, 1 for anything else, without decoding it.

        Args:
            key: that is there.

        Returns:
            0 or more.
        """
        return self._spans[key].count

    def type_name(self, key: str) -> str:
        """Type of an entry as gguf.GGUFValueType spells it.

        Args:
            key: that is there.

        Returns:
            Such as "UINT32"; for an array, the type of its items in brackets: "[STRING]".
        """
        span = self._spans[key]
        if span.item_type is not None:
            return f"[{_type_name(span.item_type)}]"
        return _type_name(span.type)

    def raw(self, key: str) -> bytes:
        """The entry's own bytes: key, type and value.

        Args:
            key: that is there.

        Returns:
            As they stand in the header.
        """
        span = self._spans[key]
        return self._header[span.start : span.stop]


@dataclass(frozen=True)
class GGUFFile:
    """A checked header.

    Args:
        path: the file.
        version: of the format.
        alignment: bytes every tensor's data is aligned to.
        metadata: entries by key.
        tensors: tensors by name, in file order.
        data_offset: bytes before the first tensor's data.
        n_bytes: size of the file.
        stamp: tells whether it was changed since.
    """

    path: Path
    version: int
    alignment: int
    metadata: Metadata
    tensors: dict[str, TensorInfo]
    data_offset: int
    n_bytes: int
    stamp: Stamp

    @property
    def architecture(self) -> str:
        """general.architecture; "" without it."""
        return str(self.metadata.get("general.architecture", ""))

    def require_aligned(self) -> None:
        """Checks that the weights lie as llama.cpp's buffers must: it would end the process.

        Raises:
            GGUFError: they may lie anywhere.
        """
        if self.alignment % ALIGNMENT:
            raise GGUFError(
                f"{self.path}: general.alignment is {self.alignment}; expected a multiple of {ALIGNMENT}. "
                "Convert the checkpoint again, or download another file."
            )


def open_gguf(path: str | Path) -> GGUFFile:
    """Reads and checks the header of a GGUF file.

    Args:
        path: the file, or the only part of an unsplit model.

    Returns:
        The header; each tensor's extent is known to lie inside the file.

    Raises:
        GGUFError: the file is missing, no GGUF, cut off, or says something about itself that is not true.
    """
    path = Path(path)
    try:
        if not path.exists():  # nor can it, with a zero or half a surrogate pair in its name
            raise FileNotFoundError(path)
        size = path.stat().st_size
        if not path.is_file():
            raise GGUFError(f"{path} is not a file; expected a .gguf file.")
        if size == 0:
            raise GGUFError(f"{path} is empty; expected a GGUF file. Download or convert it again.")
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
            stamp = stamp_of(os.fstat(stream.fileno()))
            return _parse(path, view, stamp)
    except FileNotFoundError as error:
        raise GGUFError(f"{path} does not exist; expected a .gguf file.") from error
    except OSError as error:
        raise GGUFError(f"{path} cannot be read: {error.strerror or error}.") from error


def stamp_of(status: os.stat_result) -> Stamp:
    """What tells a file from another one, or from itself before it was written to.

    Args:
        status: of the file.

    Returns:
        Its stamp.
    """
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def read_rows(file: GGUFFile, info: TensorInfo, start: int, stop: int) -> np.ndarray:
    """Reads rows of a tensor. Thread-safe; nothing is mapped, so nothing stays in memory.

    Args:
        file: the file.
        info: one of its tensors.
        start: first row.
        stop: row after the last.

    Returns:
        [stop - start, row_length] of float32, float16 or uint16 (bits of BF16); for any other type the bytes
        of the rows, uint8.

    Raises:
        GGUFError: the file cannot be read or has become shorter.
    """
    row_bytes = info.n_bytes // info.n_rows
    data = np.empty((stop - start, row_bytes), np.uint8)
    try:
        filled = fill(file.path, info.offset + start * row_bytes, data)
    except OSError as error:
        raise GGUFError(f"{file.path} cannot be read: {error.strerror or error}.") from error
    if filled < data.nbytes:
        raise GGUFError(f"{file.path} became shorter while {info.name!r} was read. Copy it again.")
    return data.view(_PLAIN.get(info.type, "u1"))


def require_gemma4(file: GGUFFile) -> Literal["model", "projector"]:
    """Says whether a file is a Gemma 4 model or a Gemma 4 projector.

    Args:
        file: its header.

    Returns:
        Which of the two; a drafter counts as a model.

    Raises:
        GGUFError: it is neither, or one part of a split model.
    """
    if file.metadata.get("split.count", 1) not in (0, 1):
        raise GGUFError(f"{file.path} is part of a split model; join its parts with llama-gguf-split")
    architecture = file.architecture
    if architecture in MODEL_ARCHITECTURES:
        return "model"
    if architecture == PROJECTOR_ARCHITECTURE:
        keys = ("clip.projector_type", "clip.vision.projector_type", "clip.audio.projector_type")
        found = [str(file.metadata[key]) for key in keys if key in file.metadata]
        if any(kind in PROJECTOR_TYPES for kind in found):
            return "projector"
        architecture = f"a projector of type {', '.join(found) or 'unknown'}"
    raise GGUFError(
        f"{file.path} holds {architecture or 'no architecture'!s}; expected a Gemma 4 model "
        f"({', '.join(MODEL_ARCHITECTURES)}) or projector ({', '.join(PROJECTOR_TYPES)})."
    )


def _parse(path: Path, view: mmap.mmap, stamp: Stamp) -> GGUFFile:
    cursor = _Cursor(path, view, len(view))
    if cursor.take(4, "the magic") != MAGIC:
        raise GGUFError(f"{path} does not start with GGUF; expected a GGUF file.")
    version = cursor.u32("the version")
    if version not in _VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        hint = "a big-endian file" if swapped in _VERSIONS else f"version {version}"
        raise GGUFError(
            f"{path} is {hint}; expected a little-endian GGUF of version 2 or 3. Convert it again."
        )
    n_tensors, n_fields = cursor.u64("the tensor count"), cursor.u64("the metadata count")
    cursor.check_count(n_fields, 13, "metadata entries")
    spans = {}
    for _ in range(n_fields):
        key, span = _read_field(cursor)
        if key in spans:
            cursor.fail(f"the key {key!r} occurs twice")
        spans[key] = span
    cursor.check_count(n_tensors, 24, "tensors")
    raw = [_read_tensor(cursor) for _ in range(n_tensors)]
    metadata = Metadata(bytes(view[: cursor.position]), spans)
    alignment = metadata.get("general.alignment", ALIGNMENT)
    known = "general.alignment" not in metadata or metadata.type_name("general.alignment") == "UINT32"
    if not known or alignment <= 0 or alignment & (alignment - 1):
        cursor.fail(f"general.alignment is {alignment!r}, not a power of two")
    data_offset = pad(cursor.position, alignment)
    tensors = _place(cursor, raw, data_offset, alignment)
    return GGUFFile(path, version, alignment, metadata, tensors, data_offset, cursor.size, stamp)


def _read_field(cursor: _Cursor) -> tuple[str, FieldSpan]:
    start = cursor.position
    key = cursor.text("a metadata key")
    if not key:
        cursor.fail("a metadata key is empty")
    kind = cursor.u32(f"the type of {key}")
    item_type, count = None, 1
    if kind == ARRAY:
        item_type, count = cursor.u32(f"the item type of {key}"), cursor.u64(f"the length of {key}")
    value = cursor.position
    cursor.skip_values(kind if item_type is None else item_type, count, key)
    return key, FieldSpan(start, cursor.position, value, kind, item_type, count)


def _read_tensor(cursor: _Cursor) -> tuple[str, tuple[int, ...], GGMLQuantizationType, int]:
    name = cursor.text("a tensor name")
    n_dims = cursor.u32(f"the dimensions of {name}")
    if not 1 <= n_dims <= _MAX_DIMS:
        cursor.fail(f"tensor {name!r} has {n_dims} dimensions")
    shape = tuple(reversed([cursor.u64(f"the shape of {name}") for _ in range(n_dims)]))
    type_id = cursor.u32(f"the type of {name}")
    try:
        kind = GGMLQuantizationType(type_id)
    except ValueError:
        cursor.fail(f"tensor {name!r} has the unknown type {type_id}")
    return name, shape, kind, cursor.u64(f"the offset of {name}")


def _place(
    cursor: _Cursor,
    raw: list[tuple[str, tuple[int, ...], GGMLQuantizationType, int]],
    data_offset: int,
    alignment: int,
) -> dict[str, TensorInfo]:
    """Checks that the tensors lie one after the other, as llama.cpp demands, and end inside the file."""
    tensors: dict[str, TensorInfo] = {}
    expected = 0
    for name, shape, kind, offset in raw:
        block, block_bytes = GGML_QUANT_SIZES[kind]
        if name in tensors:
            cursor.fail(f"tensor {name!r} occurs twice")
        if min(shape) < 1:
            cursor.fail(f"tensor {name!r} has the empty shape {list(shape)}")
        if shape[-1] % block:
            cursor.fail(f"tensor {name!r} has rows of {shape[-1]}, not a multiple of {kind.name}'s {block}")
        if offset != expected:
            cursor.fail(f"tensor {name!r} is said to start at {offset}; the ones before it end at {expected}")
        n_bytes = _product(shape) // block * block_bytes
        if data_offset + offset + n_bytes > cursor.size:
            raise GGUFError(
                f"{cursor.path} is cut off: tensor {name!r} ends at byte {data_offset + offset + n_bytes:,}, "
                f"the file at {cursor.size:,}. Download or convert it again."
            )
        tensors[name] = TensorInfo(name, shape, kind.name, data_offset + offset, n_bytes)
        expected = pad(offset + n_bytes, alignment)
    return tensors


class _Cursor:
    """A position in the header that cannot leave the file."""

    def __init__(self, path: Path, view: mmap.mmap, size: int) -> None:
        self.path = path
        self.size = size
        self.position = 0
        self._view = view

    def fail(self, what: str) -> Any:
        raise GGUFError(f"{self.path} is damaged: {what}. Download or convert it again.")

    def take(self, n: int, what: str) -> bytes:
        if n > self.size - self.position:
            raise GGUFError(
                f"{self.path} is cut off: {what} needs {n:,} bytes at {self.position:,}, the file ends at "
                f"{self.size:,}. Download or convert it again."
            )
        start = self.position
        self.position += n
        return self._view[start : self.position]

    def u32(self, what: str) -> int:
        return int(_U32.unpack(self.take(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack(self.take(8, what))[0])

    def text(self, what: str) -> str:
        data = self.take(self.u64(what), what)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return str(self.fail(f"{what} is not UTF-8"))

    def check_count(self, count: int, least_bytes: int, what: str) -> None:
        """Refuses a count that the rest of the file cannot hold, before looping over it."""
        if count * least_bytes > self.size - self.position:
            self.fail(f"{count:,} {what} do not fit into the {self.size:,} bytes of the file")

    def skip_values(self, kind: int, count: int, key: str) -> None:
        if kind == STRING:
            self.check_count(count, 8, f"strings of {key}")
            position, unpack, view = self.position, _U64.unpack_from, self._view
            last = self.size - 8
            for _ in range(count):
                if position > last:
                    self.fail(f"the strings of {key} run past the end")
                position += 8 + unpack(view, position)[0]
            if position > self.size:
                self.fail(f"the strings of {key} run past the end")
            self.position = position
        elif kind in SCALARS:
            width = np.dtype(SCALARS[kind][1]).itemsize
            self.check_count(count, width, f"items of {key}")
            self.position += count * width
        else:
            self.fail(f"{key} has the unknown type {kind}")


def _decode(header: bytes, key: str, span: FieldSpan) -> Any:
    kind = span.type if span.item_type is None else span.item_type
    if kind != STRING:
        values = np.frombuffer(header, SCALARS[kind][1], span.count, span.value).tolist()
    else:
        values, position = [], span.value
        try:
            for _ in range(span.count):
                start = position + 8
                position = start + _U64.unpack_from(header, position)[0]
                values.append(header[start:position].decode())
        except UnicodeDecodeError as error:
            raise GGUFError(f"{key} holds text that is not UTF-8: {error}.") from error
    return values if span.item_type is not None else values[0]


def _type_name(kind: int) -> str:
    return "STRING" if kind == STRING else SCALARS[kind][0]


def _product(sizes: tuple[int, ...]) -> int:
    n = 1
    for size in sizes:
        n *= size
    return n
