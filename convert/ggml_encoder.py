"""Quantization encoder: rows of numbers → rows of ggml blocks, by ggml's own code.

llama-cpp-python ships ggml but binds none of the functions below, so these few are bound here. They release
the GIL, which is what lets row slices run on all cores. Declared in ggml.h and ggml-quants.h.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from gemma4_gguf.errors import EngineError, QuantTypeError

FLOAT_TYPES = ("F32", "F16", "BF16")
SOURCE_TYPES = (*FLOAT_TYPES, "Q8_0")

_NUMPY: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
# Bits of a number without its sign, and the pattern of infinity: anything above that is not a number.
_MAGNITUDE = {
    "F32": ("<u4", 0x7FFFFFFF, 0x7F800000),
    "F16": ("<u2", 0x7FFF, 0x7C00),
    "BF16": ("<u2", 0x7FFF, 0x7F80),
}


def block_size(kind: str) -> int:
    """Numbers that one block of a type holds."""
    return GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0]


def row_bytes(kind: str, row_length: int) -> int:
    """Bytes of one row.

    Raises:
        QuantTypeError: rows of this length cannot be cut into blocks of this type.
    """
    block, n_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    if row_length % block:
        raise QuantTypeError(f"Rows of {row_length} numbers are no multiple of {kind}'s block of {block}.")
    return row_length // block * n_bytes


def is_quantized(kind: str) -> bool:
    """Whether a type stores blocks with a scale instead of plain numbers."""
    return block_size(kind) > 1


def first_bad_row(rows: np.ndarray, kind: str, *, allow_infinity: bool) -> int | None:
    """Finds a row that holds something other than numbers.

    Args:
        rows: [n_rows, row_length] of a plain type: float32, float16, or uint16 bit patterns for BF16.
        kind: "F32", "F16" or "BF16".
        allow_infinity: only look for NaN.

    Returns:
        Index of the first such row, or None.
    """
    dtype, mask, infinity = _MAGNITUDE[kind]
    limit = infinity if allow_infinity else infinity - 1
    magnitude = np.bitwise_and(rows.view(dtype), _scalar(dtype, mask))
    if magnitude.max(initial=0) <= limit:
        return None
    return int(np.argmax((magnitude > limit).any(axis=-1)))


class BlockEncoder:
    """Turns row slices of one type into another. Holds its buffers: one instance per thread.

    Args:
        max_elements: numbers of the largest slice.
    """

    def __init__(self, max_elements: int) -> None:
        self._ggml = _ggml()
        self._floats = np.empty(max_elements, np.float32)
        self._blocks = np.empty(max_elements * 4, np.uint8)

    def encode(self, rows: np.ndarray, source: str, via: str | None, target: str) -> np.ndarray:
        """Encodes a slice.

        Args:
            rows: [n_rows, row_length], C-contiguous; bytes [n_rows, row_bytes] for a Q8_0 source.
            source: type of `rows`.
            via: a plain type the numbers are rounded to first, as if they had been in a file of that type.
            target: type to write.

        Returns:
            uint8 [n]: the encoded rows. Valid until the next call, and as long as `rows` is.
        """
        if via in (source, target) or source == "Q8_0":
            via = None
        if source == target and via is None:
            return rows.reshape(-1).view(np.uint8)
        n_rows = rows.shape[0]
        row_length = self._row_length(rows, source)
        numbers = self._to_floats(rows, source)
        if via is not None and via != "F32":
            rounded = self._quantize(numbers, via, n_rows, row_length).view(_NUMPY[via])
            numbers = self._to_floats(rounded, via)
        return self._quantize(numbers, target, n_rows, row_length)

    def is_valid(self, blocks: np.ndarray, kind: str) -> bool:
        """Whether every scale is a number: it is not when weights exceed the type's range."""
        kind_id = GGMLQuantizationType[kind].value
        return bool(self._ggml.ggml_validate_row_data(kind_id, _address(blocks), blocks.nbytes))

    @staticmethod
    def _row_length(rows: np.ndarray, source: str) -> int:
        if source != "Q8_0":
            return int(rows.shape[1])
        block, n_bytes = GGML_QUANT_SIZES[GGMLQuantizationType.Q8_0]
        return int(rows.shape[1]) // n_bytes * block

    def _to_floats(self, rows: np.ndarray, source: str) -> np.ndarray:
        if source == "F32":
            return rows.reshape(-1)
        convert = {
            "F16": self._ggml.ggml_fp16_to_fp32_row,
            "BF16": self._ggml.ggml_bf16_to_fp32_row,
            "Q8_0": self._ggml.dequantize_row_q8_0,
        }[source]
        n = rows.nbytes // GGML_QUANT_SIZES[GGMLQuantizationType[source]][1] * block_size(source)
        numbers = self._floats[:n]
        convert(_address(rows), _address(numbers), n)
        return numbers

    def _quantize(self, numbers: np.ndarray, target: str, n_rows: int, row_length: int) -> np.ndarray:
        if target == "F32":
            return numbers.view(np.uint8)
        blocks = self._blocks[: n_rows * row_bytes(target, row_length)]
        kind_id = GGMLQuantizationType[target].value
        self._ggml.ggml_quantize_chunk(
            kind_id, _address(numbers), _address(blocks), 0, n_rows, row_length, None
        )
        return blocks


def _scalar(dtype: str, value: int) -> Any:
    """A numpy scalar, so that numpy does not widen an array for a Python int."""
    return np.dtype(dtype).type(value)


def _address(array: np.ndarray) -> int:
    return array.ctypes.data


@functools.cache
def _ggml() -> Any:
    """ggml's base library, with the prototypes of what is called here."""
    try:
        from llama_cpp._ctypes_extensions import load_shared_library
        from llama_cpp.llama_cpp import _base_path

        library = load_shared_library("ggml-base", _base_path)
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(
            f"The ggml library of llama-cpp-python cannot be loaded ({error}). Reinstall it: "
            "pip install --force-reinstall llama-cpp-python."
        ) from error
    pointer, int64 = ctypes.c_void_p, ctypes.c_int64
    # size_t ggml_quantize_chunk(enum ggml_type type, const float * src, void * dst,
    #                            int64_t start, int64_t nrows, int64_t n_per_row, const float * imatrix);
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, int64, int64, int64, pointer]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    # bool ggml_validate_row_data(enum ggml_type type, const void * data, size_t nbytes);
    library.ggml_validate_row_data.argtypes = [ctypes.c_int, pointer, ctypes.c_size_t]
    library.ggml_validate_row_data.restype = ctypes.c_bool
    # void ggml_bf16_to_fp32_row(const ggml_bf16_t *, float *, int64_t); likewise for fp16 and q8_0 blocks.
    for name in ("ggml_bf16_to_fp32_row", "ggml_fp16_to_fp32_row", "dequantize_row_q8_0"):
        function = getattr(library, name)
        function.argtypes = [pointer, pointer, int64]
        function.restype = None
    return library
