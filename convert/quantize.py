"""GGUF quantizer: a GGUF file → what llama.cpp's quantizer makes of it, byte for byte.

Where the quantizer would abort (it cannot handle the convolutions of an audio tower) those tensors are kept.
"""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path

from gemma4_gguf.convert.ggml_encoder import SOURCE_TYPES, is_quantized
from gemma4_gguf.convert.progress import ProgressCallback
from gemma4_gguf.convert.quant_rules import (
    TensorType,
    ggml_shape,
    model_shape,
    quantizer_types,
    recipe_fields,
)
from gemma4_gguf.convert.writer import OutputFile, OutputTensor, write_files
from gemma4_gguf.errors import GGUFError, OutputError, QuantTypeError
from gemma4_gguf.files.atomic_write import check_place
from gemma4_gguf.files.gguf_header import pack_fields, place_file_type
from gemma4_gguf.files.gguf_reader import GGUFFile, TensorInfo, open_gguf, read_rows, require_gemma4
from gemma4_gguf.files.quant_types import RECIPE_KEY, QuantType, name_with, quant_type
from gemma4_gguf.files.source_files import SourceFiles

_DROPPED = ("general.file_type", "general.quantization_version", "general.alignment", RECIPE_KEY)


def quantize_file(
    source: str | Path,
    out_path: str | Path | None,
    quant: str,
    *,
    force: bool = False,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
) -> Path:
    """Quantizes a Gemma 4 model or projector.

    Args:
        source: GGUF of type F32, F16, BF16 or Q8_0.
        out_path: file to write, a directory to write `<Name>-<QUANT>.gguf` into, or None for the
            source's own.
        quant: type to write, such as "Q4_K_M".
        force: replace an existing file.
        threads: encoding threads, at least 1; None takes the usable cores.
        progress: called after each slice, in the calling thread.

    Returns:
        The file written.

    Raises:
        GGUFError: the source is damaged or no Gemma 4, or changed meanwhile.
        QuantTypeError: the type is unknown, or the source is quantized too far already.
        OutputError: the file exists, the disk has no room, the place cannot be written.
        TensorError: a weight is not a number.
    """
    kind = quant_type(quant)
    sources = SourceFiles(GGUFError)
    with contextlib.suppress(OSError, ValueError):  # what is wrong with it, the reader says
        sources.remember(Path(source), Path(source).stat())
    file = open_gguf(source)
    require_gemma4(file)
    path = _output_path(file.path, out_path, kind)
    check_place(path)
    if path.exists() and path.samefile(file.path):
        raise OutputError(f"{path} is the source itself; choose another name.")
    write_files(
        [_output_file(file, path, kind)],
        force=force,
        threads=threads,
        progress=progress,
        before_publishing=sources.check_unchanged,
    )
    return path


def _output_path(source: Path, out_path: str | Path | None, quant: QuantType) -> Path:
    out = source.parent if out_path is None else Path(out_path)
    return out / name_with(quant, source) if os.path.isdir(out) else out  # noqa: PTH112  Path.is_dir raises for long names


def _output_file(file: GGUFFile, path: Path, quant: QuantType) -> OutputFile:
    tensors = [TensorType(info.name, info.shape, info.type) for info in file.tensors.values()]
    types = quantizer_types(tensors, model_shape(file.metadata, file.path), quant)
    kept = [key for key in file.metadata if key not in _DROPPED and not key.startswith("split.")]
    added = pack_fields(place_file_type(recipe_fields(quant), quant.file_type, at_end=True))
    return OutputFile(
        path=path,
        entries=[*(file.metadata.raw(key) for key in kept), *added],
        tensors=[_output_tensor(file, file.tensors[name], to) for name, to in types.items()],
        check_numbers=is_quantized(quant.base),
    )


def _output_tensor(file: GGUFFile, info: TensorInfo, target: str) -> OutputTensor:
    if info.type != target and info.type not in SOURCE_TYPES:
        raise QuantTypeError(
            f"{file.path} holds {info.name!r} as {info.type}; expected one of {', '.join(SOURCE_TYPES)}. "
            "Start from the original checkpoint or a BF16 file."
        )
    read = functools.partial(read_rows, file, info)
    return OutputTensor(info.name, ggml_shape(info.shape), target, info.type, None, read)
