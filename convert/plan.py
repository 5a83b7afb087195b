"""Conversion planner: a checkpoint → plans of its files, every tensor used once, or named and refused."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping

import numpy as np

from gemma4_gguf.convert.checkpoint import CONFIG, Checkpoint
from gemma4_gguf.convert.config import SENSES, ModelConfig, parse_config
from gemma4_gguf.convert.metadata import (
    file_name,
    general_fields,
    projector_fields,
    suppressed_fields,
    text_fields,
)
from gemma4_gguf.convert.safetensors import SourceTensor
from gemma4_gguf.convert.template_files import chat_templates
from gemma4_gguf.convert.tensor_names import by_canonical_name
from gemma4_gguf.convert.tensor_specs import FilePlan, MappedTensor, Spec, to_float32
from gemma4_gguf.convert.tensors_audio import audio_specs
from gemma4_gguf.convert.tensors_text import TABLE, check_tables, rope_factors, text_specs
from gemma4_gguf.convert.tensors_vision import vision_specs
from gemma4_gguf.convert.tokenizer import read_vocabulary, vocabulary_fields
from gemma4_gguf.convert.weight_files import first_names
from gemma4_gguf.errors import TensorError
from gemma4_gguf.files.chat_template import foreign_template

log = logging.getLogger(__name__)

_COMPARE_ROWS = 4096
# Left out of every file: computed anew when a model is loaded.
_COMPUTED = re.compile(r"\.rotary_emb\.(\w+_)?inv_freq$")
# Left out of a drafter's file, which llama.cpp gives no room: the ordered head it does not use, and caches
# that the drafter takes from its target.
_DRAFTER_EXTRAS = re.compile(r"^masked_embedding\.|^text\.layers\.\d+\.self_attn\.(k_proj|v_proj|k_norm)\.")
# What trainers store beside the model: optimizer states, averages of weights, heads that judge.
_TRAINING = re.compile(
    r"^(text\.)?(optimizer|optim|scheduler|ema(_model)?|v_head|value_head)\.|\.(exp_avg(_sq)?|momentum_buffer)$"
)
# Canonical prefixes of the projector's tensors.
_SENSES = {
    "vision": ("vision.", "vision_embedder.", "embed_vision."),
    "audio": ("audio.", "embed_audio."),
}
_HEAD = "lm_head.weight"
_LAYER = re.compile(r"^text\.layers\.(\d+)\.")

Tensors = Mapping[str, SourceTensor]


def plan_model(checkpoint: Checkpoint) -> FilePlan:
    """Plan the model file.

    Args:
        checkpoint: of any member, or of a drafter. Its vision and audio parts may be missing.

    Returns:
        Metadata and tensors, rotary factors first, the others in the checkpoint's order. Of the weights only
        a stored output head has been read, to compare it with the embedding.

    Raises:
        ConfigError: config.json describes something that cannot be converted.
        TensorError: a tensor is unknown, missing, named twice, or of another shape or type than expected.
        CheckpointError: the tokenizer or another file beside the weights is unusable.
    """
    config = parse_config(checkpoint.config, str(checkpoint.directory / CONFIG), senses=())
    available = {
        name: tensor
        for name, tensor in by_canonical_name(checkpoint.tensors).items()
        if not name.startswith(_prefixes())
    }
    notes = [_head(available, config), check_tables(available, config)]
    unused = {name for name in available if _left_out(name, config, available)}
    trained = [available[name].name for name in unused if _TRAINING.search(name)]
    tensors = _map(checkpoint, config, text_specs(config, available), available, unused)
    tensors.insert(0, rope_factors(config))
    vocabulary = read_vocabulary(checkpoint, config.text.vocab)
    templates = chat_templates(checkpoint, config)
    fields = [
        *general_fields(checkpoint, config, tensors, projector=False),
        *text_fields(config),
        *suppressed_fields(checkpoint, config),
        *vocabulary_fields(vocabulary, templates),
    ]
    notes += [*vocabulary.notes, foreign_template(templates.get("default"))]
    if trained:
        notes.append(f"Left out, since training alone needs it: {first_names(trained)}.")
    left_out = tuple(available[name].name for name in available if name in unused)
    return FilePlan(
        "model", file_name(checkpoint), tuple(fields), tuple(tensors), left_out, tuple(filter(None, notes))
    )


def plan_projector(checkpoint: Checkpoint) -> FilePlan | None:
    """Plan the projector file.

    Args:
        checkpoint: of any member, or of a drafter.

    Returns:
        Metadata and tensors, or None for a checkpoint without eyes and ears.

    Raises:
        ConfigError, TensorError, CheckpointError: as plan_model.
    """
    senses, _ = stored_senses(checkpoint)
    config = parse_config(checkpoint.config, str(checkpoint.directory / CONFIG), senses=senses)
    if config.vision is None and config.audio is None:
        return None
    available = {
        name: tensor
        for name, tensor in by_canonical_name(checkpoint.tensors).items()
        if name.startswith(_prefixes(senses))
    }
    width = config.text.hidden
    specs = [*vision_specs(config.vision, width)] if config.vision else []
    specs += audio_specs(config.audio, width) if config.audio else []
    unused = {name for name in available if _COMPUTED.search(name)}
    tensors = _map(checkpoint, config, specs, available, unused)
    fields = [
        *general_fields(checkpoint, config, tensors, projector=True),
        *projector_fields(checkpoint, config),
    ]
    return FilePlan("projector", file_name(checkpoint), tuple(fields), tuple(tensors))


def stored_senses(checkpoint: Checkpoint) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which senses a projector can be made of: those that are both described and stored.

    Args:
        checkpoint: of any member.

    Returns:
        Of "vision" and "audio"; and notes on what is only described, or only stored.
    """
    names = by_canonical_name(checkpoint.tensors)
    both, notes = [], []
    for sense in SENSES:
        stored = any(name.startswith(_SENSES[sense]) for name in names)
        described = checkpoint.config.get(f"{sense}_config") is not None
        if stored and described:
            both.append(sense)
        elif described:
            notes.append(
                f"config.json describes {sense}, but no weights of it are stored: the projector goes without."
            )
        elif stored:
            notes.append(f"Weights of {sense} are stored, but config.json does not describe it: left out.")
    return tuple(both), tuple(notes)


def _prefixes(senses: Iterable[str] = SENSES) -> tuple[str, ...]:
    return tuple(prefix for sense in senses for prefix in _SENSES[sense])


def _map(
    checkpoint: Checkpoint, config: ModelConfig, specs: Iterable[Spec], available: Tensors, unused: set[str]
) -> list[MappedTensor]:
    """The tensors of a file; every stored one is used, known to be superfluous, or an error."""
    specs = list(specs)
    available = {name: tensor for name, tensor in available.items() if name not in unused}
    used = {name for spec in specs for name in spec.sources}
    unknown = [name for name in available if name not in used]
    missing = [
        name
        for spec in specs
        if spec.required or any(name in available for name in spec.sources)
        for name in spec.sources
        if name not in available
    ]
    if unknown or missing:
        raise TensorError(_complaint(checkpoint, config, available, unknown, missing))
    if unused:
        log.info("%d tensors are not needed: %s", len(unused), ", ".join(sorted(unused)))
    return _in_stored_order(specs, available)


def _left_out(name: str, config: ModelConfig, available: Tensors) -> bool:
    if _COMPUTED.search(name) or _TRAINING.search(name):
        return True
    if name == _HEAD:
        return TABLE in available and _same(available[name], available[TABLE])
    return config.assistant and _DRAFTER_EXTRAS.search(name) is not None


def _head(available: dict[str, SourceTensor], config: ModelConfig) -> str | None:
    """Settles what the output head is, as transformers does (modeling_utils.py, tie_weights): a tied one that
    is stored and differs is a head of its own, and one that is stored alone is the embedding, too.

    Returns:
        A note if config.json says otherwise; else None.
    """
    if config.assistant:
        return None
    if TABLE not in available and _HEAD in available and config.tied:
        available[TABLE] = available.pop(_HEAD)
        return "No token embedding is stored; the output head, which config.json ties to it, takes its place."
    if TABLE not in available or (_HEAD in available) != config.tied:
        return None
    if not config.tied:
        return (
            "config.json says that the output head is not tied to the embedding, but none is stored: the "
            "embedding is used."
        )
    if _same(available[_HEAD], available[TABLE]):
        return None
    return (
        "The output head that is stored differs from the embedding, although config.json ties them "
        "(tie_word_embeddings): it is kept, as transformers keeps it."
    )


def _same(one: SourceTensor, other: SourceTensor) -> bool:
    """Whether two tensors hold the same numbers, maybe in different types."""
    if one.shape != other.shape:
        return False

    def rows(tensor: SourceTensor, start: int) -> np.ndarray:
        values = tensor.read(start, min(start + _COMPARE_ROWS, tensor.n_rows))
        return values if one.dtype == other.dtype else to_float32(values, tensor.raw_type)

    return all(
        rows(one, start).tobytes() == rows(other, start).tobytes()
        for start in range(0, one.n_rows, _COMPARE_ROWS)
    )


def _in_stored_order(specs: Iterable[Spec], available: Tensors) -> list[MappedTensor]:
    """llama.cpp's converter writes tensors as it meets them."""
    place = {name: index for index, name in enumerate(available)}
    present = [spec for spec in specs if spec.sources[0] in available]
    present.sort(key=lambda spec: min(place[name] for name in spec.sources))
    return [spec.map([available[name] for name in spec.sources]) for spec in present]


def _complaint(
    checkpoint: Checkpoint, config: ModelConfig, available: Tensors, unknown: list[str], missing: list[str]
) -> str:
    found = []
    layers = {int(match[1][:9]) for name in available if (match := _LAYER.match(name))}
    if layers and max(layers) + 1 != config.text.n_layers:
        found.append(f"config.json says {config.text.n_layers} layers, the weights have {max(layers) + 1}")
    if unknown:
        stored = [available[name].name for name in unknown]
        found.append(f"{len(unknown)} tensors are unknown: {first_names(stored, 5)}")
    if missing:
        names = [_published(name) for name in missing]
        found.append(f"{len(missing)} tensors are missing: {first_names(names, 5)}")
    return (
        f"{checkpoint.directory}: {'; '.join(found)}. Weights and config.json do not belong together, "
        "or the checkpoint was saved incompletely. Save it again with save_pretrained."
    )


def _published(name: str) -> str:
    """A canonical name as published checkpoints write it, for messages."""
    root, _, rest = name.partition(".")
    prefixes = {"text": "model.language_model", "vision": "model.vision_tower", "audio": "model.audio_tower"}
    return f"{prefixes.get(root, root)}.{rest}"
