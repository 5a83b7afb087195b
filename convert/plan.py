"""Conversion planner: a checkpoint → plans of its files, every tensor used once, or named and refused."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping

import numpy as np

from gemma4_gguf.convert.checkpoint import CONFIG, Checkpoint, first_names
from gemma4_gguf.convert.config import ModelConfig, parse_config
from gemma4_gguf.convert.metadata import (
    file_name,
    general_fields,
    projector_fields,
    suppressed_fields,
    text_fields,
)
from gemma4_gguf.convert.safetensors import SourceTensor
from gemma4_gguf.convert.tensor_names import by_canonical_name
from gemma4_gguf.convert.tensor_specs import FilePlan, MappedTensor, Spec
from gemma4_gguf.convert.tensors_audio import audio_specs
from gemma4_gguf.convert.tensors_text import rope_factors, text_specs
from gemma4_gguf.convert.tensors_vision import vision_specs
from gemma4_gguf.convert.tokenizer import chat_template, read_vocabulary, vocabulary_fields
from gemma4_gguf.errors import TensorError

log = logging.getLogger(__name__)

_COMPARE_ROWS = 4096
# Left out of every file: computed anew when a model is loaded.
_COMPUTED = re.compile(r"\.rotary_emb\.(\w+_)?inv_freq$")
# Left out of a drafter's file, which llama.cpp gives no room: the ordered head it does not use, and caches
# that the drafter takes from its target.
_DRAFTER_EXTRAS = re.compile(r"^masked_embedding\.|^text\.layers\.\d+\.self_attn\.(k_proj|v_proj|k_norm)\.")


def plan_model(checkpoint: Checkpoint) -> FilePlan:
    """Plan the model file.

    Args:
        checkpoint: of any member, or of a drafter.

    Returns:
        Metadata and tensors, rotary factors first, the others in the checkpoint's order. Nothing has been
        read yet but headers and JSON files.

    Raises:
        ConfigError: config.json describes something that cannot be converted.
        TensorError: a tensor is unknown, missing, named twice, or of another shape or type than expected.
        CheckpointError: the tokenizer or another file beside the weights is unusable.
    """
    config = parse_config(checkpoint.config, str(checkpoint.directory / CONFIG))
    mapped, _, unused = _map(checkpoint, config)
    tensors = [rope_factors(config), *mapped]
    vocabulary = read_vocabulary(checkpoint, config.text.vocab)
    fields = [
        *general_fields(checkpoint, config, tensors, projector=False),
        *text_fields(config),
        *suppressed_fields(checkpoint, config),
        *vocabulary_fields(vocabulary, chat_template(checkpoint, config)),
    ]
    return FilePlan("model", file_name(checkpoint), tuple(fields), tuple(tensors), unused)


def plan_projector(checkpoint: Checkpoint) -> FilePlan | None:
    """Plan the projector file.

    Args:
        checkpoint: of any member, or of a drafter.

    Returns:
        Metadata and tensors, or None for a checkpoint without eyes and ears.

    Raises:
        ConfigError, TensorError, CheckpointError: as plan_model.
    """
    config = parse_config(checkpoint.config, str(checkpoint.directory / CONFIG))
    if config.vision is None and config.audio is None:
        return None
    _, tensors, _ = _map(checkpoint, config)
    fields = [
        *general_fields(checkpoint, config, tensors, projector=True),
        *projector_fields(checkpoint, config),
    ]
    return FilePlan("projector", file_name(checkpoint), tuple(fields), tuple(tensors))


def _map(
    checkpoint: Checkpoint, config: ModelConfig
) -> tuple[list[MappedTensor], list[MappedTensor], tuple[str, ...]]:
    """Tensors of the model file, tensors of the projector, and stored names that neither needs."""
    available = by_canonical_name(checkpoint.tensors)
    width = config.text.hidden
    model = list(text_specs(config, available))
    projector = [*vision_specs(config.vision, width)] if config.vision else []
    projector += audio_specs(config.audio, width) if config.audio else []
    unused = {name for name in available if _left_out(name, config, available)}
    used = unused.union(*(spec.sources for spec in (*model, *projector)))
    unknown = [tensor.name for name, tensor in available.items() if name not in used]
    missing = [
        _published(name)
        for spec in (*model, *projector)
        if spec.required or any(name in available for name in spec.sources)
        for name in spec.sources
        if name not in available
    ]
    if unknown or missing:
        raise TensorError(_complaint(checkpoint, unknown, missing))
    if unused:
        log.info("%d tensors are not needed: %s", len(unused), ", ".join(sorted(unused)))
    return (
        _in_stored_order(model, available),
        _in_stored_order(projector, available),
        tuple(available[name].name for name in available if name in unused),
    )


def _left_out(name: str, config: ModelConfig, available: Mapping[str, SourceTensor]) -> bool:
    if _COMPUTED.search(name):
        return True
    if not config.assistant:
        return False
    if name == "lm_head.weight":
        table = available.get("text.embed_tokens.weight")
        return table is not None and _same(available[name], table)
    return _DRAFTER_EXTRAS.search(name) is not None


def _same(one: SourceTensor, other: SourceTensor) -> bool:
    """Whether two tensors hold the same bits."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    starts = range(0, one.n_rows, _COMPARE_ROWS)
    spans = [(start, min(start + _COMPARE_ROWS, one.n_rows)) for start in starts]
    return all(np.array_equal(one.read(*span), other.read(*span)) for span in spans)


def _in_stored_order(specs: Iterable[Spec], available: Mapping[str, SourceTensor]) -> list[MappedTensor]:
    """llama.cpp's converter writes tensors as it meets them."""
    place = {name: index for index, name in enumerate(available)}
    present = [spec for spec in specs if spec.sources[0] in available]
    present.sort(key=lambda spec: min(place[name] for name in spec.sources))
    return [spec.map([available[name] for name in spec.sources]) for spec in present]


def _complaint(checkpoint: Checkpoint, unknown: list[str], missing: list[str]) -> str:
    parts = []
    if unknown:
        parts.append(f"{len(unknown)} tensors are unknown: {first_names(unknown, 5)}")
    if missing:
        parts.append(f"{len(missing)} tensors are missing: {first_names(missing, 5)}")
    return (
        f"{checkpoint.directory}: {'; '.join(parts)}. Weights and config.json do not belong together, "
        "or the checkpoint was saved incompletely. Save it again with save_pretrained."
    )


def _published(name: str) -> str:
    """A canonical name as published checkpoints write it, for messages."""
    root, _, rest = name.partition(".")
    prefixes = {"text": "model.language_model", "vision": "model.vision_tower", "audio": "model.audio_tower"}
    return f"{prefixes.get(root, root)}.{rest}"
