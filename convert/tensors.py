"""What the mapping hands to the writer: metadata, and tensors that are read row slice by row slice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gemma4_gguf.files.gguf_header import Field

RawType = Literal["F32", "F16", "BF16"]
# "F16_OR_F32" is F16 in a file of type F16 and F32 in every other file: the patch embedding of a projector.
ForcedType = Literal["F32", "F16_OR_F32"]


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
        n = 1
        for size in self.shape[:-1]:
            n *= size
        return n

    @property
    def n_elements(self) -> int:
        return self.n_rows * self.row_length


@dataclass(frozen=True)
class FilePlan:
    """A whole GGUF file before it is written.

    `fields` lack general.file_type and general.quantization_version: the writer adds them, which follow from
    the type that was asked for. `name` is the base of the file name: no path separators, no spaces.
    `unused` names stored tensors that are left out on purpose.
    """

    kind: Literal["model", "projector"]
    name: str
    fields: tuple[Field, ...]
    tensors: tuple[MappedTensor, ...]
    unused: tuple[str, ...] = ()
