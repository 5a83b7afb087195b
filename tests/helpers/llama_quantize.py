"""llama.cpp's own quantizer, for comparison."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path


def quantize(source: Path, target: Path, file_type: int, *, pure: bool = False) -> None:
    """Run llama_model_quantize in this process. For a projector use `quantize_in_child`: it may abort."""
    from llama_cpp import llama_cpp as llama

    params = llama.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = file_type, 1, True
    params.pure = pure  # one type for everything that may be quantized
    status = llama.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if status:
        raise RuntimeError(f"llama_model_quantize returned {status} for {source.name}")


def quantize_in_child(source: Path, target: Path, file_type: int) -> int:
    """The same in a process of its own; returns its exit status."""
    command = [sys.executable, __file__, str(source), str(target), str(file_type)]
    return subprocess.run(command, capture_output=True, check=False).returncode


if __name__ == "__main__":
    quantize(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
