"""Vision tensors: those of the vision tower of most members, and of the 12B's patch embedder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gemma4_gguf.convert.config_towers import UnifiedVisionConfig, VisionConfig
from gemma4_gguf.convert.safetensors import RawType, SourceTensor
from gemma4_gguf.convert.tensor_names import UNIFIED_VISION, VISION, VISION_LAYER
from gemma4_gguf.convert.tensor_specs import Build, Read, Spec, clamp_specs, specs


def vision_specs(vision: VisionConfig | UnifiedVisionConfig, model_width: int) -> Iterator[Spec]:
    """The tensors that turn pixels into tokens.

    Args:
        vision: the tower's or the embedder's configuration.
        model_width: hidden size of the language model.
    """
    if isinstance(vision, UnifiedVisionConfig):
        yield from _unified_specs(vision, model_width)
        return
    sizes = {
        "hidden": vision.hidden,
        "inner": vision.intermediate,
        "head": vision.head_dim,
        "pixels": 3 * vision.patch**2,
        "axes": 2,
        "positions": vision.positions,
        "model": model_width,
    }
    builds = {"vision.patch_embedder.input_proj.weight": channels_first(vision.patch)}
    yield from specs(VISION, sizes, lambda when: vision.standardize, builds=builds)
    for layer in range(vision.n_layers):
        source, target = f"vision.encoder.layers.{layer}.", f"v.blk.{layer}."
        yield from specs(VISION_LAYER, sizes, source=source, target=target)
        if vision.clipped:
            yield from clamp_specs(VISION_LAYER, source=source, target=target)


def _unified_specs(vision: UnifiedVisionConfig, model_width: int) -> Iterator[Spec]:
    patch = vision.merged_patch
    sizes = {
        "hidden": vision.hidden,
        "pixels": 3 * patch**2,
        "axes": 2,
        "positions": vision.positions,
        "model": model_width,
    }
    columns = planar_columns(patch)
    builds = {
        "vision_embedder.patch_dense.weight": columns,
        "vision_embedder.patch_ln1.weight": columns,
        "vision_embedder.patch_ln1.bias": columns,
        "vision_embedder.pos_embedding": axis_first,
    }
    yield from specs(UNIFIED_VISION, sizes, builds=builds)


def channels_first(patch: int) -> Build:
    """Rows of pixels RGBRGB… become a convolution kernel: [n, p·p·3] → [n, 3, p, p]."""
    block = 3 * patch  # rows of the kernel per row of the source

    def build(parts: Sequence[SourceTensor]) -> tuple[tuple[int, ...], RawType, Read]:
        (tensor,) = parts

        def read(start: int, stop: int) -> np.ndarray:
            first = start // block
            rows = tensor.read(first, -(-stop // block))
            kernel = rows.reshape(-1, patch, patch, 3).transpose(0, 3, 1, 2)  # [n, 3, p, p]
            kernel = np.ascontiguousarray(kernel).reshape(-1, patch)
            return kernel[start - first * block : stop - first * block]

        return (tensor.shape[0], 3, patch, patch), tensor.raw_type, read

    return build


def planar_columns(patch: int) -> Build:
    """Columns in the order RGBRGB… become RR…GG…BB…, in which llama.cpp cuts its patches."""
    index = np.arange(3 * patch * patch).reshape(patch, patch, 3).transpose(2, 0, 1).ravel()

    def build(parts: Sequence[SourceTensor]) -> tuple[tuple[int, ...], RawType, Read]:
        (tensor,) = parts
        return tensor.shape, tensor.raw_type, lambda start, stop: tensor.read(start, stop).take(index, 1)

    return build


def axis_first(parts: Sequence[SourceTensor]) -> tuple[tuple[int, ...], RawType, Read]:
    """A position table [positions, 2, width] becomes [2, positions, width]."""
    (tensor,) = parts
    positions, axes, width = tensor.shape

    def read(start: int, stop: int) -> np.ndarray:
        wanted = np.arange(start, stop)
        rows = wanted % positions * axes + wanted // positions
        first = int(np.min(rows))
        return tensor.read(first, int(np.max(rows)) + 1)[rows - first]

    return (axes, positions, width), tensor.raw_type, read
