"""Small files to write, for the tests of the writer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from gemma4_gguf.convert.writer import OutputFile, OutputTensor
from gemma4_gguf.files.gguf_header import Field, pack_fields

FIELDS = (
    Field("general.architecture", "gemma4", "STRING"),
    Field("a.uint8", 255, "UINT8"),
    Field("a.int64", -(2**40), "INT64"),
    Field("a.float", 0.1, "FLOAT32"),
    Field("a.double", 0.1, "FLOAT64"),
    Field("a.bool", True, "BOOL"),
    Field("a.text", "zażółć\n", "STRING"),
    Field("a.flags", [True, False], "ARRAY", "BOOL"),
    Field("a.numbers", [1, -2, 3], "ARRAY", "INT32"),
    Field("a.texts", ["", "▁a", "b\n"], "ARRAY", "STRING"),
)


def tensor(
    name: str,
    values: np.ndarray,
    kind: str,
    *,
    raw_type: str = "F32",
    read: Callable[[int, int], np.ndarray] | None = None,
) -> OutputTensor:
    rows = values.reshape(-1, values.shape[-1])
    return OutputTensor(
        name, values.shape, kind, raw_type, None, read or (lambda start, stop: rows[start:stop])
    )


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def output(path: Path, *tensors: OutputTensor, check: bool = True) -> OutputFile:
    return OutputFile(path, pack_fields(FIELDS), tensors, check)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())
