"""GGUF metadata: all of it but the tokenizer's, in llama.cpp's words and order.

Two keys are ours, under
general.gemma4: whether image tokens see each other, which llama.cpp infers from the width, and all token
ids that end a reply.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gemma4_gguf.convert.checkpoint import Checkpoint
from gemma4_gguf.convert.config import ModelConfig
from gemma4_gguf.convert.config_towers import (
    AudioConfig,
    UnifiedAudioConfig,
    UnifiedVisionConfig,
    VisionConfig,
)
from gemma4_gguf.convert.json_section import short
from gemma4_gguf.convert.model_card import authorship
from gemma4_gguf.convert.tensor_specs import MappedTensor
from gemma4_gguf.errors import CheckpointError, ConfigError
from gemma4_gguf.files.gguf_header import Field

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
_MAX_NAME = 200  # characters; file systems take 255 bytes, and type, ending and marks come on top
_DEVICES = {"CON", "PRN", "AUX", "NUL"} | {f"{port}{n}" for port in ("COM", "LPT") for n in range(10)}
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
    fields += authorship(checkpoint, tensors)
    if not projector:
        fields.append(Field(IMAGE_ATTENTION, config.text.image_attention, "STRING"))
        ends = generation.get("eos_token_id")
        ends = ends if isinstance(ends, list) else [ends]
        ends = [end for end in ends if type(end) is int and 0 <= end < config.text.vocab]
        if ends:
            fields.append(Field(EOS_TOKEN_IDS, ends, "ARRAY", "INT32"))
    return fields


def file_name(checkpoint: Checkpoint) -> str:
    """What the files are called after: the last part of the checkpoint's name, in plain ASCII.

    Some apps cannot open a projector under any other name, and a name that starts with "-" is an option to
    most commands. Windows keeps some names for devices, whatever follows their first dot.
    """
    last = checkpoint.name.rstrip("/").rpartition("/")[2]
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-+") else "-" for c in last)
    plain = plain.strip("-.")[:_MAX_NAME].rstrip("-.")
    if plain.partition(".")[0].upper() in _DEVICES:
        plain = plain.replace(".", "-", 1)
    return plain or "gemma-4"


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
    sound = isinstance(tokens, list) and all(
        type(token) is int and 0 <= token < config.text.vocab for token in tokens
    )
    if not sound:
        raise ConfigError(
            f"generation_config.json: suppress_tokens is {short(tokens)}; expected a list of token ids."
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
    for key, names, kind in _SAMPLING:
        value = next((generation[name] for name in names if generation.get(name) is not None), None)
        if value is None:
            continue
        if kind == "STRING" and isinstance(value, str):
            yield Field(f"general.sampling.{key}", value, kind)
        elif kind != "STRING" and type(value) in (int, float) and -(2**31) <= value < 2**31:
            number = float(value) if kind == "FLOAT32" else int(value)
            if number != value:
                raise _no_number(checkpoint, names[0], value, "a whole number")
            yield Field(f"general.sampling.{key}", number, kind)
        else:
            raise _no_number(checkpoint, names[0], value, "a text" if kind == "STRING" else "a number")


def _no_number(checkpoint: Checkpoint, key: str, value: Any, expected: str) -> ConfigError:
    where = checkpoint.directory / "generation_config.json"
    return ConfigError(f"{where}: {key} is {short(value)}; expected {expected}.")


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
        if (
            not isinstance(value, list)
            or len(value) != 3
            or not all(type(number) in (int, float) and abs(number) < 1e6 for number in value)
        ):
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
