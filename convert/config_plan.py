"""Plan from config.json alone: which tensors a checkpoint has, and how large its files will be.

No weights are needed, and none are read: what fits a machine is known before anything is downloaded. Only the
tokenizer is estimated, which config.json does not describe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemma4_gguf.convert.config import ModelConfig, parse_config
from gemma4_gguf.convert.metadata import text_fields
from gemma4_gguf.convert.pipeline import output_file
from gemma4_gguf.convert.safetensors import RawType, SourceTensor
from gemma4_gguf.convert.tensor_specs import FilePlan, MappedTensor, Spec
from gemma4_gguf.convert.tensors_audio import audio_specs
from gemma4_gguf.convert.tensors_text import rope_factors, text_specs
from gemma4_gguf.convert.tensors_vision import vision_specs
from gemma4_gguf.convert.writer import header_of
from gemma4_gguf.files.gguf_header import Field
from gemma4_gguf.files.quant_types import QuantType, quant_type

# Pieces, scores, types and merges of the published vocabulary, and the chat template: measured.
_TOKENIZER_BYTES_PER_TOKEN = 60.2


@dataclass(frozen=True)
class FileEstimate:
    """What a file will be.

    Args:
        n_bytes: of the file; exact for a projector, within 0.01 % for a model.
        n_parameters: numbers in all tensors.
        types: how many tensors are of each type.
    """

    n_bytes: int
    n_parameters: int
    types: Mapping[str, int]


def estimate_model(
    config: Mapping[str, Any], quant: str = "Q4_K_M", *, stored: RawType = "BF16"
) -> FileEstimate:
    """Size of the model file that a checkpoint of this configuration becomes.

    Args:
        config: config.json, of any member or drafter.
        quant: type of the model.
        stored: type of the checkpoint's weights.

    Raises:
        QuantTypeError: the type is unknown.
        ConfigError: the configuration cannot be converted.
    """
    parsed = parse_config(config, "config.json")
    kind = quant_type(quant)
    tensors = [rope_factors(parsed), *_stand_ins(_model_specs(parsed), stored)]
    architecture = "gemma4-assistant" if parsed.assistant else "gemma4"
    fields = (Field("general.architecture", architecture, "STRING"), *text_fields(parsed))
    tokenizer = round(parsed.text.vocab * _TOKENIZER_BYTES_PER_TOKEN)
    return _estimate(FilePlan("model", "model", fields, tuple(tensors)), kind, tokenizer)


def estimate_projector(
    config: Mapping[str, Any], projector_type: str = "BF16", *, stored: RawType = "BF16"
) -> FileEstimate | None:
    """Size of the projector file.

    Args:
        config: config.json.
        projector_type: type of the projector.
        stored: type of the checkpoint's weights.

    Returns:
        None for a model without eyes and ears.

    Raises:
        QuantTypeError: the type is unknown.
        ConfigError: the configuration cannot be converted.
    """
    parsed = parse_config(config, "config.json")
    kind = quant_type(projector_type, projector=True)
    width = parsed.text.hidden
    wanted = [*vision_specs(parsed.vision, width)] if parsed.vision else []
    wanted += audio_specs(parsed.audio, width) if parsed.audio else []
    if not wanted:
        return None
    return _estimate(FilePlan("projector", "projector", (), tuple(_stand_ins(wanted, stored))), kind, 0)


def _model_specs(config: ModelConfig) -> Iterator[Spec]:
    """Those of a published checkpoint: keys and values of every layer, the head tied."""
    return (spec for spec in text_specs(config, ()) if spec.required or spec.target != "output.weight")


def _stand_ins(wanted: Iterator[Spec] | list[Spec], stored: RawType) -> Iterator[MappedTensor]:
    nowhere = Path("model.safetensors")
    for spec in wanted:
        yield spec.map([SourceTensor(name, spec.shape, stored, nowhere, 0) for name in spec.sources])


def _estimate(plan: FilePlan, kind: QuantType, more: int) -> FileEstimate:
    file = output_file(plan, Path(plan.name), kind)
    return FileEstimate(
        n_bytes=header_of(file).file_bytes + more,
        n_parameters=sum(tensor.n_elements for tensor in plan.tensors),
        types=dict(Counter(tensor.type for tensor in file.tensors)),
    )
