"""From stored tensors to those of the file: once, under any name, in any slices, right in value.

Equality with llama.cpp's converter is tested in test_upstream.py; here is what lies behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from tiny_config import MEMBERS

from gemma4_gguf.convert.checkpoint import Checkpoint, open_checkpoint
from gemma4_gguf.convert.plan import plan_model, plan_projector
from gemma4_gguf.convert.safetensors import SourceTensor, read_header
from gemma4_gguf.convert.tensor_names import canonical
from gemma4_gguf.convert.tensor_specs import FilePlan, MappedTensor, to_float32
from gemma4_gguf.errors import TensorError


@pytest.fixture
def opened(checkpoint: Callable[..., Path]) -> Callable[..., Checkpoint]:
    """opened(member, **options) -> that tiny checkpoint, open."""
    return lambda member, **options: open_checkpoint(checkpoint(member, **options))


def plans(source: Checkpoint) -> list[FilePlan]:
    projector = plan_projector(source)
    return [plan_model(source)] if projector is None else [plan_model(source), projector]


def rows(tensor: MappedTensor, step: int | None = None) -> np.ndarray:
    """All rows of a tensor, read `step` at a time, as stored."""
    step = step or tensor.n_rows
    starts = range(0, tensor.n_rows, step)
    return np.concatenate([tensor.read(start, min(start + step, tensor.n_rows)) for start in starts])


def values(tensor: MappedTensor) -> np.ndarray:
    return to_float32(rows(tensor), tensor.raw_type).reshape(tensor.shape)


def by_name(plan: FilePlan | None) -> dict[str, MappedTensor]:
    assert plan is not None
    return {tensor.name: tensor for tensor in plan.tensors}


def contents(source: Checkpoint) -> dict[str, bytes]:
    return {tensor.name: rows(tensor).tobytes() for plan in plans(source) for tensor in plan.tensors}


def with_config(source: Checkpoint, **values: Any) -> Checkpoint:
    """The checkpoint with other keys at the top of config.json."""
    return replace(source, config=source.config | values)  # type: ignore[operator]


def renamed(source: Checkpoint, rename: Callable[[str], str]) -> Checkpoint:
    tensors = {rename(name): replace(tensor, name=rename(name)) for name, tensor in source.tensors.items()}
    return replace(source, tensors=tensors)


def altered(source: Checkpoint, name: str, **changes: Any) -> Checkpoint:
    return replace(source, tensors={**source.tensors, name: replace(source.tensors[name], **changes)})


def twice(source: Checkpoint, name: str, other: str) -> Checkpoint:
    return replace(source, tensors={**source.tensors, other: replace(source.tensors[name], name=other)})


NORM = "model.language_model.norm.weight"


# Coverage


@pytest.mark.parametrize("member", MEMBERS)
def test_every_stored_tensor_is_used_exactly_once(member: str, opened: Callable[..., Checkpoint]) -> None:
    source = opened(member)
    both = plans(source)
    used = [name for plan in both for tensor in plan.tensors for name in tensor.sources]
    used += [name for plan in both for name in plan.unused]
    assert sorted(used) == sorted(source.tensors)
    generated = [tensor.name for plan in both for tensor in plan.tensors if not tensor.sources]
    assert generated == ["rope_freqs.weight"]
    for plan in both:
        names = [tensor.name for tensor in plan.tensors]
        assert len(names) == len(set(names))
    assert (len(both) == 2) == (source.config.get("vision_config") is not None)


def test_what_is_left_out_is_recorded(opened: Callable[..., Checkpoint]) -> None:
    assert plan_model(opened("assistant")).unused == (
        "masked_embedding.centroids.weight",
        "masked_embedding.token_ordering",
    )
    assert plan_model(opened("e2b")).unused == ()


def test_shared_layers_may_keep_their_keys_and_values(opened: Callable[..., Checkpoint]) -> None:
    kept, without = (by_name(plan_model(opened("e2b", shared_kv_weights=flag))) for flag in (True, False))
    assert set(kept) - set(without) == {
        f"blk.{layer}.{name}.weight" for layer in (3, 4, 5) for name in ("attn_k", "attn_v", "attn_k_norm")
    }
    # llama.cpp has no place for a drafter's.
    drafter = opened("assistant", shared_kv_weights=True)
    assert len(plan_model(drafter).unused) == 2 + 4 * 3
    assert not any("attn_k" in name or "attn_v" in name for name in by_name(plan_model(drafter)))


@pytest.mark.parametrize("tied", [True, False, None])
def test_a_head_that_is_the_embedding_is_left_out(
    opened: Callable[..., Checkpoint], tied: bool | None
) -> None:
    plan = plan_model(with_config(opened("31b", lm_head=True), tie_word_embeddings=tied))
    assert plan.unused == ("lm_head.weight",) and "output.weight" not in by_name(plan)
    assert [t.name for t in plan.tensors] == [t.name for t in plan_model(opened("31b")).tensors]


def test_a_head_of_another_type_may_hold_the_same_numbers(
    opened: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    source = opened("31b", lm_head=True)
    head = source.tensors["lm_head.weight"]
    numbers = to_float32(head.read(0, head.n_rows), "BF16")
    tiny.write_safetensors(tmp_path / "head.safetensors", {"lm_head.weight": ("F32", numbers)})
    wide = read_header(tmp_path / "head.safetensors")["lm_head.weight"]
    tensors = dict(source.tensors) | {"lm_head.weight": wide}
    assert plan_model(replace(source, tensors=tensors)).unused == ("lm_head.weight",)


def test_a_head_of_its_own_is_kept(opened: Callable[..., Checkpoint]) -> None:
    source = opened("31b", lm_head=True)
    other = altered(source, "lm_head.weight", offset=source.tensors["lm_head.weight"].offset + 2)
    for tied in (False, True, None):
        plan = plan_model(with_config(other, tie_word_embeddings=tied))
        tensors = by_name(plan)
        assert rows(tensors["output.weight"]).tobytes() != rows(tensors["token_embd.weight"]).tobytes()
        assert any("differs from the embedding" in note for note in plan.notes) == (tied is not False)


def test_a_tied_head_that_is_stored_alone_is_the_embedding(opened: Callable[..., Checkpoint]) -> None:
    source = opened("31b", lm_head=True)
    tensors = {name: tensor for name, tensor in source.tensors.items() if "embed_tokens" not in name}
    plan = plan_model(replace(source, tensors=tensors))
    table = by_name(plan_model(source))["token_embd.weight"]
    assert rows(by_name(plan)["token_embd.weight"]).tobytes() == rows(table).tobytes()
    assert any("takes its place" in note for note in plan.notes)
    with pytest.raises(TensorError, match=r"are missing: .*embed_tokens"):
        plan_model(with_config(replace(source, tensors=tensors), tie_word_embeddings=False))


def test_what_config_says_of_a_head_that_is_not_there(opened: Callable[..., Checkpoint]) -> None:
    (note,) = plan_model(with_config(opened("31b"), tie_word_embeddings=False)).notes[:1]
    assert "none is stored" in note
    drafter = opened("assistant", lm_head=True)
    assert "lm_head.weight" in plan_model(drafter).unused
    other = altered(drafter, "lm_head.weight", offset=drafter.tensors["lm_head.weight"].offset + 2)
    with pytest.raises(TensorError, match=r"1 tensors are unknown: lm_head\.weight"):
        plan_model(other)


# Names


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("model.language_model.layers.3.self_attn.q_proj.weight", "text.layers.3.self_attn.q_proj.weight"),
        ("language_model.model.layers.3.mlp.up_proj.linear.weight", "text.layers.3.mlp.up_proj.weight"),
        ("model.layers.3.layer_scalar", "text.layers.3.layer_scalar"),
        ("model.layers.3.layer_scalar.weight", "text.layers.3.layer_scalar"),
        ("base_model.model.model.language_model.norm.weight", "text.norm.weight"),
        ("base_model.model.model.layers.0.mlp.up_proj.base_layer.weight", "text.layers.0.mlp.up_proj.weight"),
        ("_orig_mod.module.model.embed_tokens.weight", "text.embed_tokens.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("model.layers.1.experts.gate_up_proj.weight", "text.layers.1.experts.gate_up_proj"),
        ("model.layers.1.experts.7.down_proj.weight", "text.layers.1.experts.7.down_proj.weight"),
        ("vision_tower.layers.0.mlp.up_proj.linear.weight", "vision.layers.0.mlp.up_proj.weight"),
        ("model.vision_tower.x.up_proj.input_min", "vision.x.up_proj.input_min"),
        ("model.audio_tower.x.lconv1d.linear_start.linear.weight", "audio.x.lconv1d.linear_start.weight"),
        ("model.embed_vision.embedding_projection.linear.weight", "embed_vision.embedding_projection.weight"),
        ("weight", "weight"),
        ("linear.weight", "linear.weight"),
    ],
)  # fmt: skip
def test_canonical_names(stored: str, expected: str) -> None:
    assert canonical(stored) == expected


RENAMES: dict[str, Callable[[str], str]] = {
    "peft": lambda name: "base_model.model." + name,
    "inner model": lambda name: name.replace("model.language_model.", "language_model.model."),
    "no outer model": lambda name: name.removeprefix("model."),
    "base layer": lambda name: name.replace("_proj.weight", "_proj.base_layer.weight"),
}


@pytest.mark.parametrize("rename", RENAMES)
def test_whoever_saved_it_the_file_is_the_same(rename: str, opened: Callable[..., Checkpoint]) -> None:
    source = opened("e4b")
    changed = renamed(source, RENAMES[rename])
    assert set(changed.tensors) != set(source.tensors)
    assert contents(changed) == contents(source)


def test_separate_experts_are_put_together(opened: Callable[..., Checkpoint]) -> None:
    fused, separate = opened("26b"), opened("26b", experts="separate")
    assert len(separate.tensors) > len(fused.tensors)
    assert contents(separate) == contents(fused)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda source: renamed(source, lambda name: name.replace("q_proj", "query")),
            r"are unknown: .*query.* are missing: .*q_proj",
        ),
        (
            lambda source: renamed(source, lambda name: name.replace("layers.0.layer_scalar", "old")),
            r"1 tensors are missing: model\.language_model\.layers\.0\.layer_scalar",
        ),
        (
            lambda source: renamed(source, lambda name: name.replace("norm.weight", "norm.lora_A.weight")),
            r"belongs to a LoRA adapter",
        ),
        (
            lambda source: twice(source, NORM, "language_model.norm.weight"),
            r"language_model\.norm\.weight and language_model\.norm\.weight are two names of one",
        ),
        (
            lambda source: altered(source, NORM, shape=(8,)),
            r"language_model\.norm\.weight is \[8\], but config\.json makes it \[256\]",
        ),
        (lambda source: altered(source, NORM, dtype="F64"), r"norm\.weight is stored as F64"),
        (
            lambda source: altered(source, "model.embed_vision.embedding_projection.weight", shape=(256, 95)),
            r"embedding_projection\.weight is \[256, 95\]",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    change: Callable[[Checkpoint], Checkpoint], message: str, opened: Callable[..., Checkpoint]
) -> None:
    with pytest.raises(TensorError, match=message):
        plans(change(opened("e2b")))


def test_experts_must_be_complete_and_of_one_type(opened: Callable[..., Checkpoint]) -> None:
    source = opened("26b", experts="separate")
    one = "model.language_model.layers.1.experts.2.up_proj.weight"
    lacking = replace(source, tensors={name: t for name, t in source.tensors.items() if name != one})
    with pytest.raises(TensorError, match=r"1 tensors are missing: .*layers\.1\.experts\.2\.up_proj\.weight"):
        plan_model(lacking)
    with pytest.raises(TensorError, match=r"other parts of blk\.1\.ffn_gate_up_exps\.weight"):
        plan_model(altered(source, one, dtype="F16"))


def test_values_where_keys_serve_as_values_are_refused(opened: Callable[..., Checkpoint]) -> None:
    keys = "model.language_model.layers.2.self_attn.k_proj.weight"
    with pytest.raises(TensorError, match=r"1 tensors are unknown: .*layers\.2\.self_attn\.v_proj"):
        plan_model(twice(opened("31b"), keys, keys.replace("k_proj", "v_proj")))


# Reading


@pytest.mark.parametrize(("member", "options"), [("e2b", {}), ("12b", {}), ("26b", {"experts": "separate"})])
@pytest.mark.parametrize("step", [1, 7])
def test_slices_add_up_to_the_whole(
    member: str, options: dict[str, Any], step: int, opened: Callable[..., Checkpoint]
) -> None:
    for plan in plans(opened(member, **options)):
        for tensor in plan.tensors:
            whole = rows(tensor)
            assert whole.shape == (tensor.n_rows, tensor.row_length), tensor.name
            assert whole.dtype == {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[tensor.raw_type]
            part = tensor.read(0, 1)
            assert part.flags.c_contiguous, tensor.name
            if tensor.n_rows <= 2000:
                assert rows(tensor, step).tobytes() == whole.tobytes(), tensor.name


def test_a_slice_touches_its_own_rows_only(
    opened: Callable[..., Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    touched: list[int] = []
    read = SourceTensor.read

    def counting(self: SourceTensor, start: int, stop: int) -> np.ndarray:
        touched.append((stop - start) * self.row_length)
        return read(self, start, stop)

    monkeypatch.setattr(SourceTensor, "read", counting)
    found = [
        *by_name(plan_projector(opened("e2b"))).values(),
        *by_name(plan_projector(opened("12b"))).values(),
    ]
    found += by_name(plan_model(opened("26b", experts="separate"))).values()
    for tensor in found:
        touched.clear()
        middle = tensor.n_rows // 2
        tensor.read(middle, middle + 1)
        # The patch embedding takes whole patches: rows of its file are 16 pixels of one colour.
        allowed = (
            3 * 16 * 16
            if tensor.name == "v.patch_embd.weight" and len(tensor.shape) == 4
            else tensor.row_length
        )
        assert sum(touched) <= allowed, tensor.name


def test_types_that_the_file_must_hold(opened: Callable[..., Checkpoint]) -> None:
    forced = {
        t.name: t.forced_type
        for member in ("26b", "e2b", "12b")
        for plan in plans(opened(member))
        for t in plan.tensors
    }
    assert {name for name, kind in forced.items() if kind == "F16_OR_F32"} == {"v.patch_embd.weight"}
    wide = {"v.position_embd.weight", "a.input_projection.weight", "a.conv1d.0.weight", "a.conv1d.1.weight"}
    assert {name for name in wide if forced[name] != "F32"} == set()
    for name, kind in forced.items():
        if name.endswith(
            ("norm.weight", ".scale", "gate_inp.weight", "conv_dw.weight", "_max", ".bias", "std_bias")
        ):
            assert kind == "F32", name
        if name.endswith(
            ("attn_q.weight", "token_embd.weight", "exps.weight", "_proj.weight", "a.blk.0.attn_k_rel.weight")
        ):
            assert kind is None, name


# Values


def stored(member: str) -> dict[str, np.ndarray]:
    """What the tiny checkpoint holds, rounded to BF16 as it is stored."""
    found = tiny.weights(tiny.member_config(member))

    def rounded(array: np.ndarray) -> np.ndarray:
        bits = array.astype(np.float32).view(np.uint32).astype(np.uint64)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
        return bits.astype(np.uint32).view(np.float32)

    return {name: rounded(array) for name, array in found.items() if array.dtype != np.int64}


def test_the_patch_embedding_is_a_convolution(opened: Callable[..., Checkpoint]) -> None:
    kernel = values(by_name(plan_projector(opened("e2b")))["v.patch_embd.weight"])
    assert kernel.shape == (96, 3, 16, 16)
    matrix = stored("e2b")["model.vision_tower.patch_embedder.input_proj.weight"]
    patch = np.random.default_rng(0).random((16, 16, 3), dtype=np.float32)
    # A pixel row after the other, its three colours together, is what the checkpoint multiplies with.
    expected = matrix.astype(np.float64) @ patch.ravel()
    got = np.einsum("ncyx,yxc->n", kernel.astype(np.float64), patch)
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_the_12b_sees_planes_instead_of_pixels(opened: Callable[..., Checkpoint]) -> None:
    tensors, source = by_name(plan_projector(opened("12b"))), stored("12b")
    patch = np.random.default_rng(0).random((48, 48, 3), dtype=np.float32)
    planes = patch.transpose(2, 0, 1).ravel()
    for name in ("weight", "bias"):
        norm = values(tensors[f"v.patch_norm.1.{name}"])
        assert norm @ planes == pytest.approx(
            source[f"model.vision_embedder.patch_ln1.{name}"] @ patch.ravel(), rel=1e-4, abs=1e-3
        )
    dense = values(tensors["v.patch_embd.weight"]).astype(np.float64)
    np.testing.assert_allclose(
        dense @ planes,
        source["model.vision_embedder.patch_dense.weight"].astype(np.float64) @ patch.ravel(),
        rtol=1e-9,
    )
    table = values(tensors["v.position_embd.weight"])
    expected = source["model.vision_embedder.pos_embedding"]
    assert table.shape == (2, *expected[:, 0].shape)
    np.testing.assert_array_equal(table[0], expected[:, 0])
    np.testing.assert_array_equal(table[1], expected[:, 1])


def test_rotary_factors(opened: Callable[..., Checkpoint]) -> None:
    for member, head in (("e2b", 64), ("same_head_dim", 32)):
        factors = values(by_name(plan_model(opened(member)))["rope_freqs.weight"])
        assert factors.tolist() == [1.0] * (head // 8) + [float(np.float32(1e30))] * (head // 2 - head // 8)


def test_clamps_are_rows_of_one(opened: Callable[..., Checkpoint]) -> None:
    tensors, source = by_name(plan_projector(opened("e2b"))), stored("e2b")
    clamp = tensors["v.blk.1.attn_q.input_max"]
    assert clamp.shape == (1,)
    assert values(clamp)[0] == source["model.vision_tower.encoder.layers.1.self_attn.q_proj.input_max"]
    assert "v.blk.0.attn_q.input_max" not in by_name(plan_projector(opened("31b")))


def test_depthwise_convolution_and_scale(opened: Callable[..., Checkpoint]) -> None:
    tensors, source = by_name(plan_projector(opened("e2b"))), stored("e2b")
    kernel = source["model.audio_tower.layers.0.lconv1d.depthwise_conv1d.weight"]
    np.testing.assert_array_equal(values(tensors["a.blk.0.conv_dw.weight"]), kernel[:, 0, :])
    scale = values(tensors["a.blk.0.per_dim_scale.weight"])
    exact = np.logaddexp(0, source["model.audio_tower.layers.0.self_attn.per_dim_scale"].astype(np.float64))
    np.testing.assert_allclose(scale, exact, rtol=2e-7)
