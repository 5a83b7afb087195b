"""Model configuration: config.json as typed values.

No architecture number has a default; a missing key is an error that names it.

The sizes of full-attention layers have two spellings: `global_head_dim` with `num_global_key_value_heads`,
and the `per_layer_config` of newer transformers, which wins where both stand, as it does there
(transformers 5.23, configuration_gemma4.py). What llama.cpp has built in or would abort on is checked too.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gemma4_gguf.convert.config_towers import (
    MAX_LAYERS,
    AudioConfig,
    UnifiedAudioConfig,
    UnifiedVisionConfig,
    VisionConfig,
    parse_audio,
    parse_unified_audio,
    parse_unified_vision,
    parse_vision,
)
from gemma4_gguf.convert.json_section import Section, short
from gemma4_gguf.errors import ConfigError

# Architecture → whether it is unified (12B), a drafter, or text only.
ARCHITECTURES: dict[str, tuple[bool, bool, bool]] = {
    "Gemma4ForConditionalGeneration": (False, False, False),
    "Gemma4ForCausalLM": (False, False, True),
    "Gemma4UnifiedForConditionalGeneration": (True, False, False),
    "Gemma4AssistantForCausalLM": (False, True, True),
    "Gemma4UnifiedAssistantForCausalLM": (True, True, True),
}


SENSES = ("vision", "audio")
MAX_EXPERTS = 512  # llama-hparams.h, LLAMA_MAX_EXPERTS


@dataclass(frozen=True)
class ExpertsConfig:
    """The mixture of experts beside the dense feed-forward of every layer.

    Args:
        count: experts per layer.
        used: experts per token.
        intermediate: inner size of one expert.
    """

    count: int
    used: int
    intermediate: int


@dataclass(frozen=True)
class TextConfig:
    """The language model.

    Args:
        n_layers: decoder layers.
        hidden: width.
        intermediate: inner size of the dense feed-forward.
        double_wide: layers that share a cache have twice that.
        n_heads: query heads.
        kv_heads: key/value heads per layer.
        head_dim: of the sliding layers.
        full_head_dim: of the full-attention layers.
        sliding: per layer, whether it attends within the window.
        sliding_window: tokens.
        n_kv_shared: last layers that reuse the cache of an earlier one.
        k_is_v: full-attention layers use their keys as values.
        ple: width of the per-layer embeddings, 0 without.
        ple_vocab: rows that their table is said to have.
        vocab: rows of the token embedding.
        context: positions the model was trained for.
        rms_eps: of all norms.
        rope_theta: base of the full-attention layers.
        rope_theta_sliding: base of the sliding layers.
        partial_rotary: share of a full-attention head that is rotated, in (0, 1].
        softcap: bound of the logits, None without.
        experts: None for a dense model.
        image_attention: how image tokens see each other in sliding layers.
    """

    n_layers: int
    hidden: int
    intermediate: int
    double_wide: bool
    n_heads: int
    kv_heads: tuple[int, ...]
    head_dim: int
    full_head_dim: int
    sliding: tuple[bool, ...]
    sliding_window: int
    n_kv_shared: int
    k_is_v: bool
    ple: int
    ple_vocab: int
    vocab: int
    context: int
    rms_eps: float
    rope_theta: float
    rope_theta_sliding: float
    partial_rotary: float
    softcap: float | None
    experts: ExpertsConfig | None
    image_attention: Literal["causal", "bidirectional"]

    def has_own_cache(self, layer: int) -> bool:
        return layer < self.n_layers - self.n_kv_shared

    def layer_head_dim(self, layer: int) -> int:
        return self.head_dim if self.sliding[layer] else self.full_head_dim

    def layer_intermediate(self, layer: int) -> int:
        wide = self.double_wide and not self.has_own_cache(layer)
        return 2 * self.intermediate if wide else self.intermediate


@dataclass(frozen=True)
class ModelConfig:
    """A whole checkpoint.

    Args:
        architecture: a key of ARCHITECTURES.
        text: the language model.
        vision: None without eyes.
        audio: None without ears.
        backbone: width of the model that a drafter drafts for, else None.
        tied: the output head is the token embedding.
    """

    architecture: str
    text: TextConfig
    vision: VisionConfig | UnifiedVisionConfig | None
    audio: AudioConfig | UnifiedAudioConfig | None
    backbone: int | None
    tied: bool

    @property
    def unified(self) -> bool:
        return ARCHITECTURES[self.architecture][0]

    @property
    def assistant(self) -> bool:
        return ARCHITECTURES[self.architecture][1]


def parse_config(
    config: Mapping[str, Any], file: str = "config.json", *, senses: Container[str] = SENSES
) -> ModelConfig:
    """Turn config.json into typed values.

    Args:
        config: the parsed file.
        file: its name for messages.
        senses: of SENSES; the sections of others are not looked at.

    Raises:
        ConfigError: a missing or impossible value, another architecture, or a model llama.cpp cannot run.
    """
    if not isinstance(config, Mapping):
        raise ConfigError(f"{file} is {short(config)}; expected an object.")
    root = Section(config, file)
    architecture = _architecture(root)
    unified, assistant, text_only = ARCHITECTURES[architecture]
    flat = architecture == "Gemma4ForCausalLM" and "text_config" not in config
    section = root if flat else root.section("text_config")
    text = _text(section, unified, assistant)
    backbone = root.integer("backbone_hidden_size") if assistant else None
    if backbone == text.hidden:
        raise root.error("backbone_hidden_size", f"a width other than hidden_size ({text.hidden})")
    vision: VisionConfig | UnifiedVisionConfig | None = None
    audio: AudioConfig | UnifiedAudioConfig | None = None
    if not text_only:
        if "vision" in senses and root.optional("vision_config") is not None:
            vision = (parse_unified_vision if unified else parse_vision)(root.section("vision_config"))
        if "audio" in senses and root.optional("audio_config") is not None:
            audio = (parse_unified_audio if unified else parse_audio)(root.section("audio_config"))
    tying = root if "tie_word_embeddings" in root else section
    tied = tying.optional("tie_word_embeddings") is None or tying.flag("tie_word_embeddings")
    return ModelConfig(architecture, text, vision, audio, backbone, tied)


def _architecture(root: Section) -> str:
    names = root.value("architectures")
    name = names[0] if isinstance(names, list) and names else names
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ConfigError(
            f"{root.file} is for {short(name)}. Only Gemma 4 is converted: {', '.join(ARCHITECTURES)}."
        )
    return name


# Text


def _text(section: Section, unified: bool, assistant: bool) -> TextConfig:
    section.fixed("hidden_activation", "gelu_pytorch_tanh")
    section.fixed("attention_bias", False)
    n_layers = section.integer("num_hidden_layers", maximum=MAX_LAYERS)
    sliding = _layer_types(section, n_layers)
    k_is_v = section.flag("attention_k_eq_v")
    kv_heads, dims = _layer_sizes(section, sliding, k_is_v)
    # The 12B and its drafter have no per-layer embeddings, and no keys for them.
    ple = (
        0
        if unified and "hidden_size_per_layer_input" not in section
        else section.count("hidden_size_per_layer_input")
    )
    shared = _assistant_shared(section, n_layers) if assistant else section.count("num_kv_shared_layers")
    full_rope = section.section("rope_parameters").section("full_attention")
    sliding_rope = section.section("rope_parameters").section("sliding_attention")
    full_rope.fixed("rope_type", "proportional", required=True)
    sliding_rope.fixed("rope_type", "default", required=True)
    text = TextConfig(
        n_layers=n_layers,
        hidden=section.integer("hidden_size"),
        intermediate=section.integer("intermediate_size"),
        double_wide=section.flag("use_double_wide_mlp"),
        n_heads=section.integer("num_attention_heads"),
        kv_heads=kv_heads,
        head_dim=dims[True],
        full_head_dim=dims[False],
        sliding=sliding,
        sliding_window=section.integer("sliding_window"),
        n_kv_shared=shared,
        k_is_v=k_is_v,
        ple=ple,
        ple_vocab=section.integer("vocab_size_per_layer_input") if ple else 0,
        vocab=section.integer("vocab_size"),
        context=section.integer("max_position_embeddings"),
        rms_eps=section.number("rms_norm_eps"),
        rope_theta=full_rope.number("rope_theta"),
        rope_theta_sliding=sliding_rope.number("rope_theta"),
        partial_rotary=full_rope.number("partial_rotary_factor"),
        softcap=section.number("final_logit_softcapping", null=True),
        experts=_experts(section, unified),
        image_attention=_image_attention(section),
    )
    _check_text(section, text, assistant)
    return text


def _assistant_shared(section: Section, n_layers: int) -> int:
    """A drafter has no cache of its own: all layers read its target's, whether the config says so or not."""
    if section.optional("num_kv_shared_layers") not in (None, 0, n_layers):
        raise section.error("num_kv_shared_layers", f"{n_layers}, all layers of a drafter")
    return n_layers


def _layer_types(section: Section, n_layers: int) -> tuple[bool, ...]:
    types = section.value("layer_types")
    known = {"sliding_attention": True, "full_attention": False}
    if (
        not isinstance(types, list)
        or len(types) != n_layers
        or not all(isinstance(kind, str) and kind in known for kind in types)
    ):
        raise section.error("layer_types", f"{n_layers} times sliding_attention or full_attention")
    sliding = tuple(known[kind] for kind in types)
    if sliding[-1] or not any(sliding):
        raise section.error(
            "layer_types", "at least one sliding layer, and a full-attention layer at the end"
        )
    return sliding


def _layer_sizes(
    section: Section, sliding: tuple[bool, ...], k_is_v: bool
) -> tuple[tuple[int, ...], dict[bool, int]]:
    """Key/value heads per layer, and head sizes by whether a layer slides."""
    overrides = _overrides(section, sliding, k_is_v)
    base = {key: section.integer(key) for key in ("num_key_value_heads", "head_dim")}
    sizes = [base | own for own in overrides]
    dims: dict[bool, int] = {}
    for layer, (slides, size) in enumerate(zip(sliding, sizes, strict=True)):
        if dims.setdefault(slides, size["head_dim"]) != size["head_dim"]:
            kind = "sliding" if slides else "full-attention"
            raise ConfigError(
                f"{section.where('per_layer_config')}: {kind} layers differ in head_dim (layer {layer})."
            )
    return tuple(size["num_key_value_heads"] for size in sizes), dims


def _overrides(section: Section, sliding: tuple[bool, ...], k_is_v: bool) -> list[dict[str, int]]:
    """What each layer has of its own, in either spelling."""
    n_layers = len(sliding)
    own: list[dict[str, int]] = [{} for _ in sliding]
    if section.optional("per_layer_config") is None:
        if section.optional("global_head_dim") is None:
            raise ConfigError(
                f"{section.where('global_head_dim')} is missing, and so is per_layer_config: "
                "the head size of the full-attention layers is unknown. Add one of them."
            )
        full = {"head_dim": section.integer("global_head_dim")}
        # transformers reads the second key only where keys serve as values.
        if k_is_v and section.optional("num_global_key_value_heads") is not None:
            full["num_key_value_heads"] = section.integer("num_global_key_value_heads")
        return [{} if slides else dict(full) for slides in sliding]
    layers = section.section("per_layer_config")
    for key in layers.values:
        if not key.isdecimal() or len(key) > 9 or int(key) >= n_layers:
            raise ConfigError(f"{layers.where(key)}: expected layer numbers below {n_layers}.")
        layer = layers.section(key)
        for name in layer.values:
            if name in ("head_dim", "num_key_value_heads"):
                own[int(key)][name] = layer.integer(name)
            elif layer.values[name] != section.optional(name):
                raise layer.error(name, "only head_dim and num_key_value_heads to differ per layer")
    return own


def _experts(section: Section, unified: bool) -> ExpertsConfig | None:
    if unified and "enable_moe_block" not in section:
        return None
    if not section.flag("enable_moe_block"):
        return None
    experts = ExpertsConfig(
        count=section.integer("num_experts", maximum=MAX_EXPERTS),
        used=section.integer("top_k_experts"),
        intermediate=section.integer("moe_intermediate_size"),
    )
    if experts.used > experts.count:
        raise section.error("top_k_experts", f"at most num_experts ({experts.count})")
    return experts


def _image_attention(section: Section) -> Literal["causal", "bidirectional"]:
    mode = section.value("use_bidirectional_attention")
    if mode is None:
        return "causal"
    if mode == "vision":
        return "bidirectional"
    raise section.error("use_bidirectional_attention", 'null or "vision"; llama.cpp can run no other')


def _check_text(section: Section, text: TextConfig, assistant: bool) -> None:
    for heads in text.kv_heads:
        if text.n_heads % heads:
            raise section.error("num_attention_heads", f"a multiple of the {heads} key/value heads")
    if not 0 < text.partial_rotary <= 1:
        raise section.error("rope_parameters.full_attention.partial_rotary_factor", "a number in (0, 1]")
    if assistant:
        if text.ple or text.experts or text.double_wide:
            raise ConfigError(
                f"{section.file}: a drafter has no per-layer embeddings, experts or double-wide layers."
            )
        return
    own = text.n_layers - text.n_kv_shared
    if own < 2:
        raise section.error("num_kv_shared_layers", f"at most {text.n_layers - 2}: two layers need a cache")
    # llama.cpp hands shared sliding layers the cache of layer own - 2 and shared full ones that of own - 1,
    # and aborts if that layer is of the other kind (llama-kv-cache.cpp, reuse).
    for slides in text.sliding[own:]:
        provider = own - 2 if slides else own - 1
        if text.sliding[provider] != slides:
            raise section.error(
                "num_kv_shared_layers",
                f"layers {own - 2} and {own - 1}, the last with a cache of their own, to be a sliding and "
                "a full one; llama.cpp aborts on any other layout",
            )
