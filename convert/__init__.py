"""Conversion and quantization: Gemma 4 checkpoints → GGUF files."""

from __future__ import annotations

from gemma4_gguf.convert.pipeline import ConvertedFiles, convert_checkpoint
from gemma4_gguf.convert.progress import Progress, ProgressCallback
from gemma4_gguf.convert.quantize import quantize_file

__all__ = ["ConvertedFiles", "Progress", "ProgressCallback", "convert_checkpoint", "quantize_file"]
