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
from typing import Any, Literal

import numpy as np

from gemma4_gguf.errors import CheckpointError, TensorError
from gemma4_gguf.files.read_at import fill

RawType = Literal["F32", "F16", "BF16"]


# Limit of the reference implementation (safetensors, tensor.rs, MAX_HEADER_SIZE).
MAX_HEADER_BYTES = 100_000_000
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
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


def read_header(path: Path) -> dict[str, SourceTensor]:
    """Parse and check the header of one safetensors file.

    Returns:
        Tensors by name, in the order of the header.

    Raises:
        CheckpointError: truncated, not JSON, or with lengths and offsets that do not fit the file.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise CheckpointError(
                    f"{path} is truncated or no safetensors file: its header claims {length} bytes, "
                    f"the file has {size}. Download it again."
                )
            text = file.read(length)
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


def _parse_header(path: Path, text: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) < len(pairs):
            names = [name for name, _ in pairs]
            double = next(name for name in names if names.count(name) > 1)
            raise CheckpointError(f"{path}: the header names {double} twice. Save the file again.")
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
        return CheckpointError(f"{path}: {name} {why}. The header is damaged; download the file again.")

    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise damaged("lacks dtype, shape or data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise damaged(f"has the unknown dtype {dtype!r}")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise damaged(f"has the shape {shape!r}")
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(type(n) is int and n >= 0 for n in offsets)
    ):
        raise damaged(f"has the data_offsets {offsets!r}")
    begin, end = offsets
    n_bytes = math.prod(shape) * ITEM_BYTES[dtype]
    if end - begin != n_bytes:
        raise damaged(f"takes {end - begin} bytes, but {dtype} of shape {shape} needs {n_bytes}")
    if start + end > size:
        raise CheckpointError(
            f"{path} is truncated: {name} ends at byte {start + end}, the file at {size}. Download it again."
        )
    return SourceTensor(name, tuple(shape), dtype, path, start + begin)


def _check_layout(path: Path, tensors: dict[str, SourceTensor], start: int, size: int) -> None:
    """Tensors must follow each other without overlap or gap, from the header to the end of the file."""
    position, before = start, "the header"
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, math.prod(tensor.shape))):
        if tensor.offset != position:
            what = "overlaps" if tensor.offset < position else "leaves a gap after"
            raise CheckpointError(f"{path}: {tensor.name} {what} {before}. Download or save the file again.")
        position += math.prod(tensor.shape) * ITEM_BYTES[tensor.dtype]
        before = tensor.name
    if position != size:
        raise CheckpointError(
            f"{path} has {size - position} bytes after {before} that its header does not name. "
            "Download it again."
        )
