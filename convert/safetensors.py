"""Safetensors reader: checked headers, and rows read by offset.

Weights are read and never mapped: mapped pages would count as memory of this process (an E4B is 16 GB), and
a file that shrinks under a map ends the process instead of raising. Every length and offset is checked before
any weight is read. The format: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from gemma4_gguf.convert.json_section import short, shown
from gemma4_gguf.errors import CheckpointError, TensorError
from gemma4_gguf.files.read_at import fill
from gemma4_gguf.files.source_files import SourceFiles

RawType = Literal["F32", "F16", "BF16"]


# The reference implementation takes 100 MB (tensor.rs, MAX_HEADER_SIZE), which as Python objects is more than
# many machines have. Expert by expert, the longest header of a Gemma 4 takes 2 MB.
MAX_HEADER_BYTES = 32 << 20
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
_MAX_DIMS = 8
# BF16 is kept as bit patterns: numpy has no such type.
_NUMPY: dict[str, str] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class SourceTensor:
    """One tensor of a safetensors file, not yet read.

    Args:
        name: as stored.
        shape: slowest dimension first; () for a scalar.
        dtype: safetensors type name.
        path: file it lies in.
        offset: bytes from the start of the file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    path: Path
    offset: int

    @property
    def row_length(self) -> int:
        return self.shape[-1] if self.shape else 1

    @property
    def n_rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def raw_type(self) -> RawType:
        """The stored type, if it is one that weights may have.

        Raises:
            TensorError: integers, booleans, F64 and eight-bit floats.
        """
        if self.dtype in _NUMPY:
            return self.dtype  # type: ignore[return-value]
        raise TensorError(
            f"{self.path.name}: {self.name} is stored as {self.dtype}; weights must be F32, F16 or BF16. "
            "Save the checkpoint again in one of them."
        )

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start..stop of the tensor seen as [n_rows, row_length].

        Returns:
            float32, float16 or uint16 (BF16 bits), shape [stop - start, row_length].

        Raises:
            TensorError: the type is none of F32, F16, BF16.
            CheckpointError: the file cannot be read or has become shorter.
        """
        rows = np.empty((stop - start, self.row_length), dtype=_NUMPY[self.raw_type])
        begin = self.offset + start * self.row_length * rows.itemsize
        try:
            filled = fill(self.path, begin, rows)
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot read {self.name}: {error.strerror}.") from error
        if filled < rows.nbytes:
            raise CheckpointError(
                f"{self.path} ends inside {self.name}: {filled} of {rows.nbytes} bytes are there. "
                "The file changed while it was read; copy or download it again."
            )
        return rows


def read_header(path: Path, files: SourceFiles | None = None) -> dict[str, SourceTensor]:
    """Parse and check the header of one safetensors file.

    Args:
        path: of the file.
        files: what opens it, and will know whether it is still the same.

    Returns:
        Tensors by name, in the order of the header.

    Raises:
        CheckpointError: truncated, not JSON, or with lengths and offsets that do not fit the file.
    """
    try:
        with (files or SourceFiles()).open(path) as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise CheckpointError(
                    f"{path} is truncated or no safetensors file: its header claims {length} bytes, "
                    f"the file has {size}. Download it again."
                )
            text = _read_all(file, length)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is not there. Is it a link that leads nowhere?") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}.") from error
    start = 8 + length
    tensors = {
        name: _check_entry(path, name, entry, start, size)
        for name, entry in _parse_header(path, text).items()
        if name != "__metadata__"
    }
    _check_layout(path, tensors, start, size)
    return tensors


def _read_all(file: BinaryIO, length: int) -> bytes:
    data = bytearray()
    while len(data) < length and (piece := file.read(length - len(data))):
        data += piece
    return bytes(data)


def _parse_header(path: Path, text: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for name, value in pairs:
            if name in entries:
                raise CheckpointError(f"{path}: the header names {shown(name)} twice. Save the file again.")
            entries[name] = value
        return entries

    try:
        header = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: the header is not valid JSON ({error}). Download the file again."
        ) from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the header is no JSON object. Download the file again.")
    return header


def _check_entry(path: Path, name: str, entry: Any, start: int, size: int) -> SourceTensor:
    def damaged(why: str) -> CheckpointError:
        return CheckpointError(
            f"{path}: {shown(name)} {why}. The header is damaged; download the file again."
        )

    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise damaged("lacks dtype, shape or data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise damaged(f"has the unknown dtype {short(dtype)}")
    if not isinstance(shape, list) or len(shape) > _MAX_DIMS or not all(map(_is_length, shape)):
        raise damaged(f"has the shape {short(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_length, offsets)):
        raise damaged(f"has the data_offsets {short(offsets)}")
    begin, end = offsets
    n_bytes = math.prod(shape) * ITEM_BYTES[dtype]
    if end - begin != n_bytes:
        raise damaged(f"takes {end - begin} bytes, but {dtype} of shape {shape} needs {short(n_bytes)}")
    if start + end > size:
        raise CheckpointError(
            f"{path} is truncated: {shown(name)} ends at byte {start + end}, the file at {size}. "
            "Download it again."
        )
    return SourceTensor(name, tuple(shape), dtype, path, start + begin)


def _is_length(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _check_layout(path: Path, tensors: dict[str, SourceTensor], start: int, size: int) -> None:
    """Tensors must follow each other without overlap or gap, from the header to the end of the file."""
    position, before = start, "the header"
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, math.prod(tensor.shape))):
        if tensor.offset != position:
            what = "overlaps" if tensor.offset < position else "leaves a gap after"
            raise CheckpointError(
                f"{path}: {shown(tensor.name)} {what} {before}. Download or save the file again."
            )
        position += math.prod(tensor.shape) * ITEM_BYTES[tensor.dtype]
        before = shown(tensor.name)
    if position != size:
        raise CheckpointError(
            f"{path} has {size - position} bytes after {before} that its header does not name. "
            "Download it again."
        )
