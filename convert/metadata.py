"""GGUF metadata: all of it but the tokenizer's, in llama.cpp's words and order.

Name, version and licence are guessed as llama.cpp does (gguf.Metadata). Two keys are ours, under
general.gemma4: whether image tokens see each other, which llama.cpp infers from the width, and all token
ids that end a reply.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gguf import Metadata
from gguf.metadata import yaml  # what it reads model cards with, and whose errors it lets through
from gguf.utility import size_label

from gemma4_gguf.convert.checkpoint import Checkpoint
from gemma4_gguf.convert.config import ModelConfig
from gemma4_gguf.convert.config_towers import (
    AudioConfig,
    UnifiedAudioConfig,
    UnifiedVisionConfig,
    VisionConfig,
)
from gemma4_gguf.convert.tensor_specs import MappedTensor
from gemma4_gguf.errors import CheckpointError, ConfigError
from gemma4_gguf.files.gguf_header import Field

log = logging.getLogger(__name__)

IMAGE_ATTENTION = "general.gemma4.image_attention"
EOS_TOKEN_IDS = "general.gemma4.eos_token_ids"

# Key below general.sampling → names in generation_config.json, and the type.
_SAMPLING = (
    ("sequence", ("sequence",), "STRING"),
    ("top_k", ("top_k",), "INT32"),
    ("top_p", ("top_p",), "FLOAT32"),
    ("min_p", ("min_p",), "FLOAT32"),
    ("xtc_probability", ("xtc_probability",), "FLOAT32"),
    ("xtc_threshold", ("xtc_threshold",), "FLOAT32"),
    ("temp", ("temperature",), "FLOAT32"),
    ("penalty_last_n", ("penalty_last_n",), "INT32"),
    ("penalty_repeat", ("penalty_repeat", "repetition_penalty"), "FLOAT32"),
    ("mirostat", ("mirostat",), "INT32"),
    ("mirostat_tau", ("mirostat_tau",), "FLOAT32"),
    ("mirostat_eta", ("mirostat_eta",), "FLOAT32"),
)
# Attributes of gguf.Metadata that are texts → key below general.
_TEXTS = {
    "name": "name",
    "author": "author",
    "version": "version",
    "organization": "organization",
    "finetune": "finetune",
    "basename": "basename",
    "description": "description",
    "quantized_by": "quantized_by",
    "size_label": "size_label",
    "license": "license",
    "license_name": "license.name",
    "license_link": "license.link",
    "url": "url",
    "doi": "doi",
    "uuid": "uuid",
    "repo_url": "repo_url",
    "source_url": "source.url",
    "source_doi": "source.doi",
    "source_uuid": "source.uuid",
    "source_repo_url": "source.repo_url",
}
_ORIGIN = ("name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url")
# llama.cpp's readers of images and sounds are told a size they never use.
_UNUSED_IMAGE_SIZE = 224
_MEL_BINS = 128


def general_fields(
    checkpoint: Checkpoint, config: ModelConfig, tensors: Sequence[MappedTensor], *, projector: bool
) -> list[Field]:
    """The general.* keys.

    Args:
        checkpoint: its README.md and its name are asked.
        config: of the checkpoint.
        tensors: of the file; they give its size label.
        projector: the file is a projector.
    """
    if projector:
        architecture, kind = "clip", "mmproj"
    else:
        architecture, kind = ("gemma4-assistant" if config.assistant else "gemma4"), "model"
    fields = [Field("general.architecture", architecture, "STRING"), Field("general.type", kind, "STRING")]
    generation = checkpoint.json("generation_config.json") or {}
    fields += _sampling(generation, checkpoint)
    fields += _authorship(_describe(checkpoint, tensors))
    if not projector:
        fields.append(Field(IMAGE_ATTENTION, config.text.image_attention, "STRING"))
        ends = generation.get("eos_token_id")
        ends = [ends] if type(ends) is int else ends
        if isinstance(ends, list) and ends and all(type(end) is int for end in ends):
            fields.append(Field(EOS_TOKEN_IDS, ends, "ARRAY", "INT32"))
    return fields


def file_name(checkpoint: Checkpoint) -> str:
    """What the files are called after: the last part of the checkpoint's name, in plain ASCII.

    Some apps cannot open a projector under any other name.
    """
    last = Path(checkpoint.name).name
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-+") else "-" for c in last)
    return plain.strip("-.") or "gemma-4"


def text_fields(config: ModelConfig) -> list[Field]:
    """The language model's numbers."""
    text, values = config.text, list[tuple[str, Any, str]]()
    even = len(set(text.kv_heads)) == 1
    inner = map(text.layer_intermediate, range(text.n_layers))
    values += [
        ("block_count", text.n_layers, "UINT32"),
        ("context_length", text.context, "UINT32"),
        ("embedding_length", text.hidden, "UINT32"),
        ("feed_forward_length", *_per_layer(text.intermediate, text.double_wide, inner)),
        ("attention.head_count", text.n_heads, "UINT32"),
        ("attention.head_count_kv", *_per_layer(text.kv_heads[0], not even, text.kv_heads)),
        ("rope.freq_base", text.rope_theta, "FLOAT32"),
        ("rope.freq_base_swa", text.rope_theta_sliding, "FLOAT32"),
        ("attention.layer_norm_rms_epsilon", text.rms_eps, "FLOAT32"),
    ]
    if text.experts:
        values.append(("expert_count", text.experts.count, "UINT32"))
        values.append(("expert_used_count", text.experts.used, "UINT32"))
    values.append(("attention.key_length", text.full_head_dim, "UINT32"))
    values.append(("attention.value_length", text.full_head_dim, "UINT32"))
    if text.softcap is not None or not config.assistant:
        # llama.cpp bounds the logits by 30 unless told otherwise; 0 tells it not to.
        values.append(("final_logit_softcapping", text.softcap or 0.0, "FLOAT32"))
    values += [
        ("attention.sliding_window", text.sliding_window, "UINT32"),
        ("attention.shared_kv_layers", text.n_kv_shared, "UINT32"),
        ("embedding_length_per_layer_input", text.ple, "UINT32"),
        ("attention.sliding_window_pattern", list(text.sliding), "BOOL"),
        ("attention.key_length_swa", text.head_dim, "UINT32"),
        ("attention.value_length_swa", text.head_dim, "UINT32"),
    ]
    if text.experts:
        values.append(("expert_feed_forward_length", text.experts.intermediate, "UINT32"))
    values.append(("rope.dimension_count", text.full_head_dim, "UINT32"))
    values.append(("rope.dimension_count_swa", text.head_dim, "UINT32"))
    if config.backbone is not None:
        values.append(("embedding_length_out", config.backbone, "UINT32"))
        values.append(("nextn_predict_layers", text.n_layers, "UINT32"))
    prefix = "gemma4-assistant." if config.assistant else "gemma4."
    return [_field(prefix + key, value, kind) for key, value, kind in values]


def suppressed_fields(checkpoint: Checkpoint, config: ModelConfig) -> list[Field]:
    """Tokens the 12B must never write, from generation_config.json."""
    if not config.unified or config.assistant:
        return []
    tokens = (checkpoint.json("generation_config.json") or {}).get("suppress_tokens")
    if tokens is None:
        return []
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        raise ConfigError(
            f"generation_config.json: suppress_tokens is {tokens!r}; expected a list of token ids."
        )
    return [Field("tokenizer.ggml.suppress_tokens", tokens, "ARRAY", "INT32")] if tokens else []


def projector_fields(checkpoint: Checkpoint, config: ModelConfig) -> list[Field]:
    """The numbers of the vision and audio parts.

    Raises:
        CheckpointError: processor_config.json does not say how pictures are normalised.
    """
    values: list[tuple[str, Any, str]] = []
    if config.vision is not None:
        values += _vision_values(config.vision, config.text.hidden, _processor(checkpoint))
    if config.audio is not None:
        values += _audio_values(config.audio, config.text.hidden)
    if config.vision is not None:
        values.append(("vision.projector_type", "gemma4uv" if config.unified else "gemma4v", "STRING"))
        values.append(("vision.attention.layer_norm_epsilon", config.vision.rms_eps, "FLOAT32"))
        if config.vision.pooling != 3:  # what llama.cpp takes for granted
            values.append(("vision.projector.scale_factor", config.vision.pooling, "UINT32"))
    if config.audio is not None:
        values.append(("audio.projector_type", "gemma4ua" if config.unified else "gemma4a", "STRING"))
        bins = config.audio.mel_bins if isinstance(config.audio, AudioConfig) else _MEL_BINS
        values.append(("audio.num_mel_bins", bins, "UINT32"))
        values.append(("audio.attention.layer_norm_epsilon", config.audio.rms_eps, "FLOAT32"))
    return [_field(f"clip.{key}", value, kind) for key, value, kind in values]


# Helpers


def _field(key: str, value: Any, kind: str) -> Field:
    return Field(key, value, "ARRAY", kind) if isinstance(value, list) else Field(key, value, kind)


def _per_layer(one: int, differs: bool, layers: Iterable[int]) -> tuple[int | list[int], str]:
    return (list(layers), "INT32") if differs else (one, "UINT32")


def _sampling(generation: Mapping[str, Any], checkpoint: Checkpoint) -> Iterator[Field]:
    casts = {"STRING": str, "INT32": int, "FLOAT32": float}
    for key, names, kind in _SAMPLING:
        value = next((generation[name] for name in names if generation.get(name) is not None), None)
        if value is None:
            continue
        try:
            yield Field(f"general.sampling.{key}", casts[kind](value), kind)
        except (TypeError, ValueError) as error:
            where = checkpoint.directory / "generation_config.json"
            raise ConfigError(f"{where}: {names[0]} is {value!r}; expected a number.") from error


def _describe(checkpoint: Checkpoint, tensors: Sequence[MappedTensor]) -> Metadata:
    card: dict[str, Any] | None = None
    try:
        card = Metadata.load_model_card(checkpoint.directory)
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        log.warning("The model card is left out: its front matter cannot be read (%s).", error)
    total, shared, expert, count = _parameters(tensors)
    settings = dict(checkpoint.config)
    if "/" in checkpoint.name:
        settings["_name_or_path"] = checkpoint.name
    name = Path(checkpoint.name).name
    # Only the last part of the path is read.
    metadata = Metadata.apply_metadata_heuristic(Metadata(), card, settings, Path(name), total)
    metadata.name = metadata.name or name
    metadata.size_label = metadata.size_label or size_label(total, shared, expert, count)
    return metadata


def _parameters(tensors: Sequence[MappedTensor]) -> tuple[int, int, int, int]:
    """All parameters, those outside of the experts, those of one expert, and how many experts there are."""
    shared = expert = counted = stacks = 0
    for tensor in tensors:
        if "_exps." in tensor.name and len(tensor.shape) >= 3:
            expert += tensor.n_elements // tensor.shape[-3]
            counted += tensor.shape[-3]
            stacks += 1
        else:
            shared += tensor.n_elements
    total = sum(tensor.n_elements for tensor in tensors)
    return total, shared, expert, counted // stacks if stacks else 0


def _authorship(metadata: Metadata) -> Iterator[Field]:
    for attribute, key in _TEXTS.items():
        value = getattr(metadata, attribute)
        if value is not None:
            value = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            yield Field(f"general.{key}", value, "STRING")
    for attribute, key in (("base_models", "base_model"), ("datasets", "dataset")):
        origins = getattr(metadata, attribute)
        if origins is None:
            continue
        yield Field(f"general.{key}.count", len(origins), "UINT32")
        for index, origin in enumerate(origins):
            for word in _ORIGIN:
                if word in origin:
                    yield Field(f"general.{key}.{index}.{word}", str(origin[word]), "STRING")
    for key in ("tags", "languages"):
        if getattr(metadata, key):
            yield Field(f"general.{key}", list(map(str, getattr(metadata, key))), "ARRAY", "STRING")


def _processor(checkpoint: Checkpoint) -> dict[str, Any]:
    """Settings of the image processor: preprocessor_config.json, overridden by processor_config.json."""
    merged: dict[str, Any] = {}
    for file, inner in (
        ("preprocessor_config.json", "media_proc_cfg"),
        ("processor_config.json", "image_processor"),
    ):
        settings = checkpoint.json(file) or {}
        nested = settings.get(inner)
        merged |= settings | (nested if isinstance(nested, dict) else {})
    for key in ("image_mean", "image_std"):
        value = merged.get(key)
        if not isinstance(value, list) or len(value) != 3:
            raise CheckpointError(
                f"{checkpoint.directory}: processor_config.json does not give {key} as three numbers. "
                "Copy the file from the model that this one was made from."
            )
    return merged


def _vision_values(
    vision: VisionConfig | UnifiedVisionConfig, model_width: int, processor: Mapping[str, Any]
) -> list[tuple[str, Any, str]]:
    tower = vision if isinstance(vision, VisionConfig) else None
    return [
        ("has_vision_encoder", True, "BOOL"),
        ("vision.projection_dim", model_width, "UINT32"),
        ("vision.image_size", _UNUSED_IMAGE_SIZE, "UINT32"),
        ("vision.patch_size", vision.patch, "UINT32"),
        ("vision.embedding_length", vision.hidden, "UINT32"),
        ("vision.feed_forward_length", tower.intermediate if tower else 0, "UINT32"),
        ("vision.block_count", tower.n_layers if tower else 0, "UINT32"),
        ("vision.attention.head_count", tower.n_heads if tower else 0, "UINT32"),
        ("vision.image_mean", [float(x) for x in processor["image_mean"]], "FLOAT32"),
        ("vision.image_std", [float(x) for x in processor["image_std"]], "FLOAT32"),
        # The config insists on the tanh form of GELU; unless told, llama.cpp takes the sigmoid form.
        *([("use_gelu", True, "BOOL")] if tower else []),
    ]


def _audio_values(audio: AudioConfig | UnifiedAudioConfig, model_width: int) -> list[tuple[str, Any, str]]:
    tower = audio if isinstance(audio, AudioConfig) else None
    width = tower.hidden if tower else audio.frame  # type: ignore[union-attr]
    return [
        ("has_audio_encoder", True, "BOOL"),
        ("audio.projection_dim", model_width, "UINT32"),
        ("audio.embedding_length", width, "UINT32"),
        ("audio.feed_forward_length", 4 * tower.hidden if tower else 0, "UINT32"),
        ("audio.block_count", tower.n_layers if tower else 0, "UINT32"),
        ("audio.attention.head_count", tower.n_heads if tower else 0, "UINT32"),
    ]
