"""Conversion pipeline: a checkpoint → finished files, by plan and rules, in one pass of the writer."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gemma4_gguf.convert.checkpoint import open_checkpoint
from gemma4_gguf.convert.ggml_encoder import is_quantized
from gemma4_gguf.convert.plan import plan_model, plan_projector, stored_senses
from gemma4_gguf.convert.progress import ProgressCallback
from gemma4_gguf.convert.quant_rules import (
    TensorType,
    converter_type,
    ggml_shape,
    model_shape,
    quantizer_types,
    recipe_fields,
)
from gemma4_gguf.convert.tensor_specs import FilePlan, MappedTensor
from gemma4_gguf.convert.writer import OutputFile, OutputTensor, write_files
from gemma4_gguf.errors import TensorError
from gemma4_gguf.files.gguf_header import pack_fields, place_file_type
from gemma4_gguf.files.quant_types import QUANT_TYPES, QuantType, quant_type

# The quantizer starts from a file of this type: weights of any other pass through it.
_STAGE = QUANT_TYPES["BF16"]


@dataclass(frozen=True)
class ConvertedFiles:
    """What a conversion wrote. Iterating gives the paths.

    Args:
        model: the model.
        projector: what makes it see and hear; None for a text-only checkpoint, or if none was asked for.
        notes: what was left out, or does not fit together; sentences, each given as a warning as well.
    """

    model: Path
    projector: Path | None
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Path]:
        return iter([self.model] if self.projector is None else [self.model, self.projector])


def convert_checkpoint(
    source: str | Path,
    out_dir: str | Path,
    quant: str = "Q4_K_M",
    projector_type: str | None = "BF16",
    *,
    name: str | None = None,
    force: bool = False,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
) -> ConvertedFiles:
    """Converts a checkpoint into `<Name>-<QUANT>.gguf` and, if it sees or hears, `mmproj-<Name>-<TYPE>.gguf`.

    Everything is checked before anything is written, and both files appear whole or not at all.

    Args:
        source: a checkpoint directory; `gemma4_gguf.pull` downloads one of the hub.
        out_dir: directory to write into; made if absent.
        quant: type of the model: F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q5_0, Q4_K_M, Q4_K_S, Q4_0,
            IQ4_NL, IQ4_XS, Q3_K_M, Q3_K_S, Q2_K, or the mix Q4_COMPACT for little memory.
        projector_type: type of the projector: F32, F16, BF16 or Q8_0; None writes none.
        name: what to call the model, such as its hub id; the files are called after its last part. None takes
            the hub id of a directory of the hub's cache, else the name of the directory or of the link to it.
        force: replace existing files.
        threads: encoding threads, at least 1; None takes the usable cores.
        progress: called after each slice, in the calling thread. An exception it raises ends the run.

    Returns:
        The files written.

    Raises:
        QuantTypeError: a type is unknown.
        CheckpointError: the source cannot be converted, or changed meanwhile; ConfigError and TensorError say
            where.
        OutputError: a file exists, the disk has no room, the place cannot be written.
    """
    model_type = quant_type(quant)
    eyes_type = None if projector_type is None else quant_type(projector_type, projector=True)
    checkpoint = open_checkpoint(Path(source), name=name)
    out_dir = Path(os.path.expanduser(out_dir))  # noqa: PTH111  Path.expanduser raises for unknown users
    plan = plan_model(checkpoint)
    eyes = None if eyes_type is None else plan_projector(checkpoint)
    model = out_dir / f"{plan.name}-{model_type.name}.gguf"
    files = [output_file(plan, model, model_type)]
    projector = None
    if eyes is not None and eyes_type is not None:
        projector = out_dir / f"mmproj-{eyes.name}-{eyes_type.name}.gguf"
        files.append(output_file(eyes, projector, eyes_type))
    notes = (*checkpoint.notes, *plan.notes, *(() if eyes_type is None else stored_senses(checkpoint)[1]))
    for note in notes:
        warnings.warn(note, stacklevel=2)
    unchanged = checkpoint.files.check_unchanged
    try:
        write_files(files, force=force, threads=threads, progress=progress, before_publishing=unchanged)
    except TensorError:  # weights that are no numbers may be those of another file by now
        unchanged()
        raise
    return ConvertedFiles(model, projector, notes)


def output_file(plan: FilePlan, path: Path, quant: QuantType) -> OutputFile:
    """Chooses the type of every tensor of a plan, and with it the order of the file.

    Args:
        plan: what the mapping made of a checkpoint.
        path: file to write.
        quant: its type.

    Returns:
        What the writer needs.
    """
    own = [*plan.fields, *recipe_fields(quant)]
    fields = place_file_type(own, quant.file_type, at_end=not quant.by_converter)
    return OutputFile(
        path=path,
        entries=pack_fields(fields),
        tensors=_converted(plan, quant) if quant.by_converter else _quantized(plan, quant),
        check_numbers=is_quantized(quant.base),
    )


def _converted(plan: FilePlan, quant: QuantType) -> list[OutputTensor]:
    return [
        OutputTensor(
            name=tensor.name,
            shape=tensor.shape,
            type=converter_type(tensor.row_length, tensor.forced_type, quant),
            raw_type=tensor.raw_type,
            via=None,
            read=tensor.read,
        )
        for tensor in plan.tensors
    ]


def _quantized(plan: FilePlan, quant: QuantType) -> list[OutputTensor]:
    tensors = {tensor.name: tensor for tensor in plan.tensors}
    stage = {name: converter_type(t.row_length, t.forced_type, _STAGE) for name, t in tensors.items()}
    listed = [TensorType(name, tensor.shape, stage[name]) for name, tensor in tensors.items()]
    shape = model_shape({field.key: field.value for field in plan.fields}, plan.name)

    def output(name: str, kind: str) -> OutputTensor:
        tensor: MappedTensor = tensors[name]
        return OutputTensor(name, ggml_shape(tensor.shape), kind, tensor.raw_type, stage[name], tensor.read)

    return [output(name, kind) for name, kind in quantizer_types(listed, shape, quant).items()]
