"""Gemma 4 checkpoints to GGUF files: conversion, quantization, inspection."""

from __future__ import annotations

from gemma4_gguf.convert.inspect import inspect_file
from gemma4_gguf.convert.pipeline import ConvertedFiles, convert_checkpoint
from gemma4_gguf.convert.progress import Progress, ProgressCallback
from gemma4_gguf.convert.quantize import quantize_file
from gemma4_gguf.convert.recipe import PROJECTOR_QUANTS, QUANT_TYPES
from gemma4_gguf.convert.report import FileReport

__all__ = [
    "PROJECTOR_QUANTS",
    "QUANT_TYPES",
    "ConvertedFiles",
    "FileReport",
    "Progress",
    "ProgressCallback",
    "convert_checkpoint",
    "inspect_file",
    "quantize_file",
]
