"""What the name of a GGUF file says: its model, its type, and whether it is a projector or a part."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemma4_gguf.errors import QuantTypeError
from gemma4_gguf.files.quant_types import (
    MODEL_TYPES,
    PROJECTOR_QUANTS,
    FileName,
    name_with,
    quant_type,
    read_name,
)

NAMES = {
    "gemma-4-E2B-it-Q4_K_M.gguf": ("gemma-4-E2B-it", "Q4_K_M"),
    "gemma-4-E2B-it.iq4_xs.gguf": ("gemma-4-E2B-it", "IQ4_XS"),
    "gemma-4-E2B-it_Q8_0.gguf": ("gemma-4-E2B-it", "Q8_0"),
    "gemma-4-E2B-it-f16.GGUF": ("gemma-4-E2B-it", "F16"),
    "gemma-4-E2B-it-F32.gguf": ("gemma-4-E2B-it", "F32"),
    "gemma-4-E2B-it.i1-IQ1_S.gguf": ("gemma-4-E2B-it.i1", "IQ1_S"),
    "gemma-4-E2B-it-Q4_COMPACT.gguf": ("gemma-4-E2B-it", "Q4_COMPACT"),
    "gemma-4-E2B-it-q4.gguf": ("gemma-4-E2B-it", "Q4"),
    "sub/gemma-UD-Q4_K_XL.gguf": ("gemma", "UD-Q4_K_XL"),
    "gemma-UD-IQ2_XXS.gguf": ("gemma", "UD-IQ2_XXS"),
    "gemma-UD-TQ1_0.gguf": ("gemma", "UD-TQ1_0"),
    "gemma-TQ2_0.gguf": ("gemma", "TQ2_0"),
    "gemma-MXFP4_MOE.gguf": ("gemma", "MXFP4_MOE"),
    "gemma-mxfp4.gguf": ("gemma", "MXFP4"),
    "gemma-NVFP4.gguf": ("gemma", "NVFP4"),
    "Q4_K_M.gguf": ("", "Q4_K_M"),
    "model.gguf": ("model", None),
    "model-Q2024.gguf": ("model-Q2024", None),
    "model-TQ3_0.gguf": ("model-TQ3_0", None),
    "gemma-4-E2B-it.gguf": ("gemma-4-E2B-it", None),
    "gemmaQ4_K_M.gguf": ("gemmaQ4_K_M", None),
}
PROJECTORS = {
    "mmproj-gemma-4-Q8_0.gguf": ("gemma-4", "Q8_0"),
    "gemma-4.mmproj-f16.gguf": ("gemma-4", "F16"),
    "gemma-4-BF16-mmproj.gguf": ("gemma-4", "BF16"),
    "MMPROJ_gemma-4-BF16.gguf": ("gemma-4", "BF16"),
    "sub/mmproj-BF16.gguf": ("", "BF16"),
    "mmproj-model.gguf": ("model", None),
    "mmproj.gguf": ("", None),
}


@pytest.mark.parametrize("name", NAMES)
def test_models(name: str) -> None:
    assert read_name(name) == FileName(*NAMES[name], is_projector=False, is_part=False)
    assert read_name(Path("mmproj-folder") / name) == read_name(name)


@pytest.mark.parametrize("name", PROJECTORS)
def test_projectors(name: str) -> None:
    assert read_name(name) == FileName(*PROJECTORS[name], is_projector=True, is_part=False)


def test_parts() -> None:
    assert read_name("BF16/gemma-BF16-00001-of-00003.gguf") == FileName("gemma", "BF16", False, True)


@pytest.mark.parametrize("quant", MODEL_TYPES)
def test_what_is_written_is_read(quant: str) -> None:
    name = name_with(MODEL_TYPES[quant], "gemma-4-E2B-it-BF16.gguf")
    assert read_name(name) == FileName("gemma-4-E2B-it", quant, False, False)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("folder/gemma-BF16.gguf", "gemma-Q8_0.gguf"),
        ("mmproj-gemma.f32.gguf", "mmproj-gemma-Q8_0.gguf"),
        ("mmproj-BF16.gguf", "mmproj-Q8_0.gguf"),
        ("gemma.gguf", "gemma-Q8_0.gguf"),
        ("BF16.gguf", "Q8_0.gguf"),
    ],
)
def test_names_of_another_type(source: str, expected: str) -> None:
    assert name_with(MODEL_TYPES["Q8_0"], Path(source)) == expected


def test_projectors_are_ranked_by_type() -> None:
    names = ["mmproj-a.gguf", *(f"mmproj-{quant}.gguf" for quant in reversed(PROJECTOR_QUANTS))]
    ranked = sorted(names, key=lambda name: read_name(name).projector_rank)
    assert [read_name(name).quant for name in ranked] == ["BF16", "F16", "F32", "Q8_0", None]
    with pytest.raises(QuantTypeError, match="expected one of BF16, F16, F32, Q8_0"):
        quant_type("Q4_0", projector=True)
