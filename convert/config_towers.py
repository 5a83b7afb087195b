"""Vision and audio configuration: the parts of config.json for towers and embedders.

Values that llama.cpp has built in (tools/mtmd/models/gemma4*.cpp, tools/mtmd/clip.cpp) must be the config's.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemma4_gguf.convert.json_section import Section

# What llama.cpp has room for (llama-hparams.h, LLAMA_MAX_LAYERS).
MAX_LAYERS = 512
_MAX_PATCH = 256  # pixels; published towers have 16


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower of the E-series, the 26B and the 31B."""

    n_layers: int
    hidden: int
    intermediate: int
    n_heads: int
    head_dim: int
    patch: int
    pooling: int
    positions: int
    rms_eps: float
    clipped: bool
    standardize: bool


@dataclass(frozen=True)
class AudioConfig:
    """The audio conformer of the E-series."""

    n_layers: int
    hidden: int
    n_heads: int
    mel_bins: int
    kernel: int
    channels: tuple[int, int]
    output: int
    rms_eps: float
    clipped: bool


@dataclass(frozen=True)
class UnifiedVisionConfig:
    """The 12B's patch embedder: pixels of a merged patch straight to the model's width."""

    hidden: int
    patch: int
    pooling: int
    positions: int
    rms_eps: float

    @property
    def merged_patch(self) -> int:
        """Side of a merged patch in pixels."""
        return self.patch * self.pooling


@dataclass(frozen=True)
class UnifiedAudioConfig:
    """The 12B's audio embedder: `frame` samples of 16 kHz sound straight to the model's width."""

    frame: int
    rms_eps: float


def parse_vision(section: Section) -> VisionConfig:
    section.fixed("hidden_activation", "gelu_pytorch_tanh")
    section.fixed("attention_bias", False)
    if section.optional("rope_parameters") is not None:
        section.section("rope_parameters").fixed("rope_theta", 100.0)
    vision = VisionConfig(
        n_layers=section.integer("num_hidden_layers", maximum=MAX_LAYERS),
        hidden=section.integer("hidden_size"),
        intermediate=section.integer("intermediate_size"),
        n_heads=section.integer("num_attention_heads"),
        head_dim=section.integer("head_dim"),
        patch=section.integer("patch_size", maximum=_MAX_PATCH),
        pooling=section.integer("pooling_kernel_size", maximum=_MAX_PATCH),
        positions=section.integer("position_embedding_size"),
        rms_eps=section.number("rms_norm_eps"),
        clipped=section.flag("use_clipped_linears"),
        standardize=section.flag("standardize"),
    )
    section.fixed("num_key_value_heads", vision.n_heads)
    if vision.n_heads * vision.head_dim != vision.hidden:
        raise section.error(
            "head_dim", f"hidden_size / num_attention_heads = {vision.hidden} / {vision.n_heads}"
        )
    return vision


def parse_audio(section: Section) -> AudioConfig:
    for key, value in {
        "hidden_act": "silu",
        "residual_weight": 0.5,
        "attention_chunk_size": 12,
        "attention_context_left": 13,
        "attention_context_right": 0,
        "attention_logit_cap": 50.0,
        "conv_kernel_size": 5,
        "rms_norm_eps": 1e-6,
    }.items():
        section.fixed(key, value)
    channels = section.value("subsampling_conv_channels")
    if (
        not isinstance(channels, list)
        or len(channels) != 2
        or not all(type(n) is int and 0 < n < 2**31 for n in channels)
    ):
        raise section.error("subsampling_conv_channels", "two channel counts")
    audio = AudioConfig(
        n_layers=section.integer("num_hidden_layers", maximum=MAX_LAYERS),
        hidden=section.integer("hidden_size"),
        n_heads=section.integer("num_attention_heads"),
        # transformers has no such key and fixes 128 in its feature extractor.
        mel_bins=section.integer("input_feat_size") if "input_feat_size" in section else 128,
        kernel=section.integer("conv_kernel_size"),
        channels=(channels[0], channels[1]),
        output=section.integer("output_proj_dims"),
        rms_eps=section.number("rms_norm_eps"),
        clipped=section.flag("use_clipped_linears"),
    )
    if audio.hidden % audio.n_heads:
        raise section.error("num_attention_heads", f"a divisor of hidden_size ({audio.hidden})")
    return audio


def parse_unified_vision(section: Section) -> UnifiedVisionConfig:
    vision = UnifiedVisionConfig(
        hidden=section.integer("mm_embed_dim"),
        patch=section.integer("patch_size", maximum=_MAX_PATCH),
        pooling=section.integer("pooling_kernel_size", maximum=_MAX_PATCH),
        positions=section.integer("mm_posemb_size"),
        rms_eps=section.number("rms_norm_eps"),
    )
    section.fixed("model_patch_size", vision.merged_patch)
    return vision


def parse_unified_audio(section: Section) -> UnifiedAudioConfig:
    section.fixed("audio_embed_dim", 640, required=True)
    section.fixed("rms_norm_eps", 1e-6)
    return UnifiedAudioConfig(
        frame=section.integer("audio_embed_dim"), rms_eps=section.number("rms_norm_eps")
    )
