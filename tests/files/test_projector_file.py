"""Projector files on which llama.cpp would end the process, or read rubbish: refused before it sees them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from altered import altered
from projector_files import rewrite

from gemma4_gguf.errors import GGUFError
from gemma4_gguf.files.projector_file import check_layout

Files = dict[str, Path]


@pytest.mark.parametrize("member", ["e2b", "e4b", "26b", "31b", "12b"])
def test_right_files_pass(member: str, converted: Callable[..., Files]) -> None:
    layout = check_layout(converted(member)["projector"])
    assert layout.token_px == 48
    assert layout.max_side_tokens == (128 if member == "12b" else 256 // 3)
    assert layout.has_conformer == (member in ("e2b", "e4b"))


WRONG_KEYS: dict[str, tuple[dict[str, Any], str]] = {
    "no heads": ({"clip.vision.attention.head_count": 0}, "head_count is 0"),
    "heads missing": ({"clip.audio.attention.head_count": None}, "head_count is missing; expected a whole"),
    "other width": ({"clip.vision.embedding_length": 84}, "shape"),
    "more blocks": ({"clip.vision.block_count": 3}, r"v\.blk\.2\..* is missing"),
    "no patches": ({"clip.vision.patch_size": 0}, "patch_size is 0"),
    "other patches": ({"clip.vision.patch_size": 14}, "shape"),
    "other pooling": ({"clip.vision.projector.scale_factor": 0}, "scale_factor is 0"),
    "mean missing": ({"clip.vision.image_mean": None}, "image_mean is missing; expected a list of 3"),
    "mel bands": ({"clip.audio.num_mel_bins": 80}, "num_mel_bins is 80"),
    "other audio width": ({"clip.audio.embedding_length": 32}, "shape"),
}


@pytest.mark.parametrize("name", WRONG_KEYS)
def test_metadata_that_contradicts_the_tensors(
    name: str, converted: Callable[..., Files], tmp_path: Path
) -> None:
    keys, words = WRONG_KEYS[name]
    with pytest.raises(GGUFError, match=words):
        check_layout(rewrite(converted("e2b")["projector"], tmp_path / "a.gguf", keys=keys))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("clip.vision.image_mean", [0, 0, 0], r"image_mean is of type \[INT32\]; expected \[FLOAT32\]"),
        ("clip.vision.image_std", [1.0, 1.0], "image_std has 2 items"),
        ("clip.use_gelu", 1, "use_gelu is of type UINT32; expected BOOL"),
        ("clip.has_audio_encoder", 1, "has_audio_encoder is of type UINT32; expected BOOL"),
        ("clip.vision.block_count", True, "block_count is of type BOOL"),
        ("general.name", 5, "name is of type UINT32"),
        ("general.alignment", 16, "is said to start"),
        ("clip.projector_type", 5, "projector_type is of type UINT32"),
        ("clip.has_gen_audio_encoder", 1, "has_gen_audio_encoder is of type UINT32"),
        ("clip.use_silu", True, "use_silu is True"),
        ("clip.vision.image_std", [0.0, 1.0, 1.0], r"image_std is \[0.0, 1.0, 1.0\]; expected .* not 0"),
        ("clip.vision.image_mean", [float("nan")] * 3, "image_mean"),
        ("clip.vision.image_size", 0, "image_size is 0"),
        ("clip.vision.patch_size", 0, "patch_size is 0"),
        ("clip.vision.projector.scale_factor", 0, "scale_factor is 0"),
        ("clip.vision.projector.scale_factor", 2**20, "scale_factor is 1048576"),
        ("clip.vision.attention.layer_norm_epsilon", -1e-6, "layer_norm_epsilon is -"),
        ("clip.audio.attention.layer_norm_epsilon", float("nan"), "layer_norm_epsilon is nan"),
        ("clip.vision.attention.head_count", 0, "head_count is 0"),
        ("clip.vision.attention.head_count", 48, "head_count is 48"),
        ("clip.vision.feature_layer", [1.0], "feature_layer is of type"),
        ("clip.minicpmv_version", 3, "minicpmv_version is of type UINT32; expected INT32"),
    ],
)
def test_values_of_another_type(
    key: str, value: Any, words: str, converted: Callable[..., Files], tmp_path: Path
) -> None:
    """llama.cpp ends the process on some, and reads the bits of whole numbers as floating-point ones."""
    with pytest.raises(GGUFError, match=words):
        check_layout(altered(converted("e2b")["projector"], tmp_path / "a.gguf", {key: value}))


@pytest.mark.parametrize("member", ["e2b", "12b"])
def test_every_tensor_is_looked_at(member: str, converted: Callable[..., Files], tmp_path: Path) -> None:
    source = converted(member)["projector"]
    names = [tensor.name for tensor in gguf.GGUFReader(source).tensors]
    clamps = (".input_min", ".input_max", ".output_min", ".output_max")
    checked = [n for n in names if not n.endswith(clamps) and ".blk.0." not in n] + ["v.blk.0.ln1.weight"] * (
        member == "e2b"
    )
    assert len(checked) > 6
    for missing in checked:
        path = rewrite(
            source, tmp_path / "a.gguf", tensors=lambda n, v, gone=missing: None if n == gone else v
        )
        with pytest.raises(GGUFError, match=missing.replace(".", r"\.")):
            check_layout(path)


def test_vectors_of_another_type_and_wide_clamps_are_refused(
    converted: Callable[..., Files], tmp_path: Path
) -> None:
    source = converted("e2b")["projector"]
    for name, change in (
        ("v.blk.0.ln1.weight", lambda v: v.astype(np.float16)),
        ("v.blk.0.ffn_up.input_max", lambda v: np.repeat(v, 2)),
        ("v.position_embd.weight", lambda v: v.reshape(1, -1, v.shape[-1])),
    ):
        path = rewrite(
            source,
            tmp_path / "a.gguf",
            tensors=lambda n, v, which=name, new=change: new(v) if n == which else v,
        )
        with pytest.raises(GGUFError, match=name.replace(".", r"\.")):
            check_layout(path)


def test_a_cut_off_file_is_refused(converted: Callable[..., Files], tmp_path: Path) -> None:
    """llama.cpp would read what is missing as whatever lay in memory."""
    path = tmp_path / "a.gguf"
    path.write_bytes(converted("e2b")["projector"].read_bytes()[:-1000])
    with pytest.raises(GGUFError, match="cut off"):
        check_layout(path)
