"""Audio tensors: those of the E-series' conformer, and of the 12B's waveform embedder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gemma4_gguf.convert.config_towers import AudioConfig, UnifiedAudioConfig
from gemma4_gguf.convert.safetensors import RawType, SourceTensor
from gemma4_gguf.convert.softplus import softplus
from gemma4_gguf.convert.tensor_names import AUDIO, AUDIO_LAYER, UNIFIED_AUDIO
from gemma4_gguf.convert.tensor_specs import Read, Spec, clamp_specs, reshaped, specs, to_float32


def audio_specs(audio: AudioConfig | UnifiedAudioConfig, model_width: int) -> Iterator[Spec]:
    """The tensors that turn sound into tokens.

    Args:
        audio: the conformer's or the embedder's configuration.
        model_width: hidden size of the language model.
    """
    if isinstance(audio, UnifiedAudioConfig):
        yield from specs(UNIFIED_AUDIO, {"model": model_width, "frame": audio.frame})
        return
    first, second = audio.channels
    sizes = {
        "one": 1,
        "three": 3,
        "hidden": audio.hidden,
        "inner": 4 * audio.hidden,
        "double": 2 * audio.hidden,
        "head": audio.hidden // audio.n_heads,
        "kernel": audio.kernel,
        "first": first,
        "second": second,
        # Two convolutions of stride 2 leave a quarter of the mel bins.
        "subsampled": audio.mel_bins // 4 * second,
        "output": audio.output,
        "model": model_width,
    }
    builds = {
        "self_attn.per_dim_scale": positive_scale,
        "lconv1d.depthwise_conv1d.weight": reshaped(lambda shape: (shape[0], shape[2])),
    }
    yield from specs(AUDIO, sizes)
    for layer in range(audio.n_layers):
        source, target = f"audio.layers.{layer}.", f"a.blk.{layer}."
        yield from specs(AUDIO_LAYER, sizes, source=source, target=target, builds=builds)
        if audio.clipped:
            yield from clamp_specs(AUDIO_LAYER, source=source, target=target)


def positive_scale(parts: Sequence[SourceTensor]) -> tuple[tuple[int, ...], RawType, Read]:
    """The query scale as llama.cpp multiplies by it: after softplus, in float32.

    llama.cpp's converter widens BF16 before, and F16 after it has computed.
    """
    (tensor,) = parts

    def read(start: int, stop: int) -> np.ndarray:
        scale = softplus(to_float32(tensor.read(start, stop), tensor.raw_type))
        return scale.astype(np.float16).astype(np.float32) if tensor.raw_type == "F16" else scale

    return tensor.shape, "F32", read
