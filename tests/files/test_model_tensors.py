"""Tensors of a model that llama.cpp's graph could not take: missing, of another shape, of another type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from gemma4_gguf.errors import GGUFError
from gemma4_gguf.files.gguf_reader import GGUFFile, TensorInfo, open_gguf
from gemma4_gguf.files.model_file import check_model

Converted = Callable[..., dict[str, Path]]
OPTIONAL = ("layer_output_scale", "attn_v", "ffn_gate_inp.weight", "ffn_down_exps.scale")


@pytest.fixture
def check_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[GGUFFile, Mapping[str, TensorInfo]], None]:
    """check_with(file, tensors): checks a model as if its header listed these tensors."""

    def check(file: GGUFFile, tensors: Mapping[str, TensorInfo]) -> None:
        changed = replace(file, tensors=dict(tensors))
        monkeypatch.setattr("gemma4_gguf.files.model_file.open_gguf", lambda _: changed)
        check_model(file.path)

    return check


@pytest.mark.parametrize("member", ["e2b", "12b", "26b", "31b"])
def test_every_tensor_is_looked_at(
    member: str, converted: Converted, check_with: Callable[..., None]
) -> None:
    file = open_gguf(converted(member)["model"])
    own = [name for name in file.tensors if "blk." not in name or name.startswith(("blk.0.", "blk.2."))]
    checked = [name for name in own if not any(part in name for part in OPTIONAL)]
    assert len(checked) > 20
    check_with(file, file.tensors)
    for name in own:
        tensor = file.tensors[name]
        fewer = {other: info for other, info in file.tensors.items() if other != name}
        wrong = [replace(tensor, shape=(*tensor.shape[:-1], tensor.shape[-1] + 32))]
        wrong += [replace(tensor, shape=(1, *tensor.shape)), replace(tensor, type="I8")]
        wrong += [replace(tensor, type=kind) for kind in ("I32", "F64", "Q8_1", "Q8_K")]
        if len(tensor.shape) == 1:
            wrong += [replace(tensor, type=kind) for kind in ("BF16", "F16", "Q8_0")]
        for changed in ([None] if name in checked else []) + wrong:
            listed = fewer if changed is None else file.tensors | {name: changed}
            with pytest.raises(GGUFError, match=name.replace(".", r"\.").replace("gate_up", "gate(_up)?")):
                check_with(file, listed)


@pytest.mark.parametrize("alignment", [1, 8, 16])
def test_weights_must_lie_as_buffers_do(
    alignment: int, converted: Converted, check_with: Callable[..., None]
) -> None:
    file = open_gguf(converted("e2b")["model"])
    with pytest.raises(GGUFError, match=f"alignment is {alignment}; expected a multiple of 32"):
        check_with(replace(file, alignment=alignment), file.tensors)
    check_with(replace(file, alignment=64), file.tensors)


@pytest.mark.parametrize(
    "kind", ["F32", "F16", "BF16", "Q4_1", "IQ2_XXS", "IQ4_XS", "MXFP4", "TQ2_0", "Q5_1"]
)
def test_matrices_of_other_quantizers_pass(
    kind: str, converted: Converted, check_with: Callable[..., None]
) -> None:
    file = open_gguf(converted("e2b")["model"])
    changed = {n: replace(t, type=kind) if len(t.shape) > 1 else t for n, t in file.tensors.items()}
    check_with(file, changed)
    assert {t.type for t in changed.values()} == {kind, "F32"}


@pytest.mark.parametrize("quant", ["BF16", "Q4_K_M"])
@pytest.mark.parametrize("member", ["e2b", "26b"])
def test_files_as_converted_pass(member: str, quant: str, converted: Converted) -> None:
    assert check_model(converted(member, quant)["model"]).n_layer == 6
