"""Tensor specifications: what each tensor of a file is made of, and readers that reorder stored rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gemma4_gguf.convert.json_section import shown
from gemma4_gguf.convert.safetensors import RawType, SourceTensor
from gemma4_gguf.convert.tensor_names import CLAMPS, ForcedType, Row
from gemma4_gguf.errors import TensorError
from gemma4_gguf.files.gguf_header import Field


@dataclass(frozen=True)
class MappedTensor:
    """One tensor of the GGUF file, not yet read.

    Args:
        name: GGUF name, such as "blk.0.attn_q.weight".
        shape: numpy order, slowest dimension first, row length last; () is not allowed, a scalar is (1,).
        raw_type: type of the rows that `read` returns.
        read: read(start, stop) returns rows start..stop of the tensor seen as [n_rows, row_length],
            C-contiguous: float32, float16, or uint16 bit patterns for BF16. Thread-safe, and touches only
            those rows.
        sources: names of the checkpoint tensors it is made of.
        forced_type: type the file must hold whatever was asked for, else None. Set for everything that
            llama.cpp's converter never stores in the asked type: one-dimensional tensors, names that end in
            "_norm.weight" or not in ".weight", the MoE router, position tables, audio convolutions, the patch
            embedding.
    """

    name: str
    shape: tuple[int, ...]
    raw_type: RawType
    read: Callable[[int, int], np.ndarray]
    sources: tuple[str, ...] = ()
    forced_type: ForcedType | None = None

    @property
    def row_length(self) -> int:
        return self.shape[-1]

    @property
    def n_rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def n_elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class FilePlan:
    """A whole GGUF file before it is written.

    `fields` lack general.file_type and general.quantization_version: the writer adds them, which follow from
    the type that was asked for. `name` is the base of the file name: no path separators, no spaces.
    `unused` names stored tensors that are left out on purpose. `notes` are for whoever converts.
    """

    kind: Literal["model", "projector"]
    name: str
    fields: tuple[Field, ...]
    tensors: tuple[MappedTensor, ...]
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


Read = Callable[[int, int], np.ndarray]
# Parts of one tensor → its shape in the file, the type of its rows, and their reader.
Build = Callable[[Sequence[SourceTensor]], tuple[tuple[int, ...], RawType, Read]]


def as_stored(parts: Sequence[SourceTensor]) -> tuple[tuple[int, ...], RawType, Read]:
    """One tensor, unchanged; a scalar becomes a row of one."""
    (tensor,) = parts
    return tensor.shape or (1,), tensor.raw_type, tensor.read


@dataclass(frozen=True)
class Spec:
    """One tensor of the file and what it is made of.

    Args:
        target: GGUF name.
        sources: canonical names of its parts, in order.
        shape: of each part as stored; a scalar counts as (1,).
        required: whether its absence is an error.
        forced: as in `tensor_names.Row`.
        build: how the parts become the tensor.
    """

    target: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]
    required: bool = True
    forced: ForcedType | None = None
    build: Build = as_stored

    def map(self, parts: Sequence[SourceTensor]) -> MappedTensor:
        """The tensor made of these parts.

        Raises:
            TensorError: a part is of another shape or type than expected.
        """
        for part in parts:
            if (part.shape or (1,)) != self.shape:
                raise TensorError(
                    f"{part.path.name}: {shown(part.name)} is {list(part.shape)}, but config.json makes it "
                    f"{list(self.shape)}. Config and weights belong to different models."
                )
        if len({part.raw_type for part in parts}) > 1:
            raise TensorError(
                f"{parts[0].name} and the other parts of {self.target} are stored in different types."
            )
        shape, raw_type, read = self.build(parts)
        one_type = (
            len(shape) == 1 or self.target.endswith("_norm.weight") or not self.target.endswith(".weight")
        )
        forced: ForcedType | None = "F32" if one_type else self.forced
        return MappedTensor(self.target, shape, raw_type, read, tuple(part.name for part in parts), forced)


def always_present(when: str) -> bool:
    """For tables all of whose rows exist."""
    return True


def specs(
    rows: Iterable[Row],
    sizes: Mapping[str, int],
    present: Callable[[str], bool | None] = always_present,
    *,
    source: str = "",
    target: str = "",
    builds: Mapping[str, Build] | None = None,
) -> Iterator[Spec]:
    """Put numbers into a name table.

    Args:
        rows: the table.
        sizes: a number for every word of `Row.sizes`.
        present: for a word of `Row.when`: True if such tensors must be there, None if they may, False if not.
        source: put before canonical names.
        target: put before GGUF names.
        builds: how some tensors are built, by `Row.source`.
    """
    for row in rows:
        needed = present(row.when) if row.when else True
        if needed is False:
            continue
        shape = tuple(sizes[word] for word in row.sizes)
        build = (builds or {}).get(row.source, as_stored)
        yield Spec(target + row.target, (source + row.source,), shape, needed is True, row.forced, build)


def clamp_specs(rows: Iterable[Row], *, source: str, target: str) -> Iterator[Spec]:
    """The clamps of a table's "clipped" rows, scalars that llama.cpp wants as rows of one."""
    for row in rows:
        if row.when == "clipped":
            for clamp in CLAMPS:
                names = tuple(name.removesuffix("weight") + clamp for name in (row.source, row.target))
                yield Spec(target + names[1], (source + names[0],), (1,))


# Builds


def stacked(*, pairs: bool = False) -> Build:
    """Matrices on top of each other: one per expert, or gate and up of one expert after the other.

    Returns:
        A build whose shape is [experts, rows, row_length].
    """

    def build(parts: Sequence[SourceTensor]) -> tuple[tuple[int, ...], RawType, Read]:
        rows, length = parts[0].shape
        group = 2 if pairs else 1

        def read(start: int, stop: int) -> np.ndarray:
            pieces = []
            for index in range(start // rows, -(-stop // rows)):
                first, last = max(start - index * rows, 0), min(stop - index * rows, rows)
                pieces.append(parts[index].read(first, last))
            return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

        return (len(parts) // group, group * rows, length), parts[0].raw_type, read

    return build


def reshaped(shape: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Build:
    """The same bytes under another shape; the row length stays."""

    def build(parts: Sequence[SourceTensor]) -> tuple[tuple[int, ...], RawType, Read]:
        (tensor,) = parts
        return shape(tensor.shape), tensor.raw_type, tensor.read

    return build


def to_float32(rows: np.ndarray, raw_type: RawType) -> np.ndarray:
    """Rows of any stored type as float32, exactly."""
    if raw_type == "BF16":
        return (rows.astype(np.uint32) << 16).view(np.float32)
    return rows.astype(np.float32, copy=False)
