"""Files planned from the published configurations, against the published files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemma4_gguf.convert.config_plan import estimate_model, estimate_projector
from gemma4_gguf.errors import ConfigError, QuantTypeError

PUBLISHED = Path(__file__).resolve().parents[1] / "data/published"
MEMBERS = sorted(path.name.removesuffix(".config.json") for path in PUBLISHED.glob("*.config.json"))
GIB = 1 << 30


def config_of(member: str) -> dict[str, Any]:
    return json.loads((PUBLISHED / f"{member}.config.json").read_text("utf-8"))


@pytest.mark.parametrize("member", MEMBERS)
def test_every_published_configuration_is_planned(member: str) -> None:
    config = config_of(member)
    estimates = [estimate_model(config, quant) for quant in ("Q4_K_M", "Q8_0", "BF16")]
    assert len({estimate.n_parameters for estimate in estimates}) == 1
    assert estimates[0].n_bytes < estimates[1].n_bytes < estimates[2].n_bytes
    assert (estimate_projector(config) is None) == ("assistant" in member)


# Tensors by type, and sizes, of files that others published.
@pytest.mark.parametrize(
    ("member", "quant", "types", "n_bytes"),
    [
        ("gemma-4-E4B-it", "Q4_K_M", {"F32": 339, "Q4_K": 336, "Q6_K": 44, "BF16": 1}, 4.97 * GIB),
        ("gemma-4-12B-it", "Q4_K_M", {"F32": 338, "Q4_K": 284, "Q6_K": 45}, 6.87 * GIB),
        (
            "gemma-4-26B-A4B-it",
            "Q4_K_M",
            {"F32": 392, "Q5_0": 32, "Q8_0": 28, "Q4_K": 192, "Q6_K": 14},
            16_796_015_136,
        ),
    ],
)
def test_models_are_the_published_ones(
    member: str, quant: str, types: dict[str, int], n_bytes: float
) -> None:
    found = estimate_model(config_of(member), quant)
    assert found.types == types
    assert found.n_bytes == pytest.approx(n_bytes, rel=1e-3)


@pytest.mark.parametrize(
    ("member", "projector_type", "megabytes"),
    [
        ("gemma-4-E2B-it", "BF16", 986),
        ("gemma-4-E2B-it", "Q8_0", 557),
        ("gemma-4-12B-it", "BF16", 175),
    ],
)
def test_projectors_are_the_published_ones(member: str, projector_type: str, megabytes: int) -> None:
    found = estimate_projector(config_of(member), projector_type)
    assert found is not None and found.n_bytes // 1_000_000 == megabytes


@pytest.mark.parametrize(
    ("member", "billions"),
    [
        ("gemma-4-E2B", 5.1),
        ("gemma-4-E4B", 8.0),
        ("gemma-4-12B", 12.0),
        ("gemma-4-26B-A4B", 25.8),
        ("gemma-4-31B", 31.3),
    ],
)
def test_parameters_are_those_the_members_are_named_for(member: str, billions: float) -> None:
    """With eyes and ears."""
    config = config_of(member)
    projector = estimate_projector(config)
    assert projector is not None
    total = estimate_model(config).n_parameters + projector.n_parameters
    assert total / 1e9 == pytest.approx(billions, abs=0.06)


@pytest.mark.parametrize("member", ["31b", "26b", "12b"])
def test_an_estimate_is_the_file(
    member: str, checkpoint: Callable[..., Path], converted: Callable[..., dict[str, Path]]
) -> None:
    """But for the tokenizer and what a name says; the tiny checkpoints have another vocabulary."""
    config = json.loads((checkpoint(member) / "config.json").read_text("utf-8"))
    files = converted(member, "Q8_0", "BF16")
    model, projector = estimate_model(config, "Q8_0"), estimate_projector(config, "BF16")
    assert projector is not None
    assert model.n_bytes == pytest.approx(files["model"].stat().st_size, abs=70_000)
    assert projector.n_bytes == pytest.approx(files["projector"].stat().st_size, abs=4_000)


def test_what_cannot_be_planned_is_refused() -> None:
    config = config_of("gemma-4-E2B")
    with pytest.raises(QuantTypeError):
        estimate_model(config, "Q4_K_X")
    del config["text_config"]["num_hidden_layers"]
    with pytest.raises(ConfigError, match="num_hidden_layers"):
        estimate_model(config)


ROW = re.compile(r"^\| \d+ GB \| (\S+?)(?:: .*?)? \| ([\d.]+) GB \|$", re.M)


def test_the_readme_says_how_large_the_files_are() -> None:
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")
    said = {member: float(size) for member, size in ROW.findall(text)}
    sizes = {member: estimate_model(config_of(f"gemma-4-{member}-it")).n_bytes for member in said}
    assert said == {member: round(n_bytes / 1e9, 1) for member, n_bytes in sizes.items()}
    assert set(said) == {"E2B", "E4B", "12B", "26B-A4B", "31B"}
    projectors = [estimate_projector(config_of(f"gemma-4-{member}-it")) for member in said]
    (most,) = re.findall(r"A projector adds up to ([\d.]+) GB", text)
    assert float(most) == round(max(found.n_bytes for found in projectors if found) / 1e9, 1)
