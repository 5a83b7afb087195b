"""The recorded references are what transformers and llama.cpp's converter give today.

    pip install -e '.[test,reference]'
    export GEMMA4_GGUF_LLAMA_CPP_SRC=path/to/llama.cpp    (without it, upstream's converter is not run)
    pytest -m reference

The comparing tests themselves run a second time under the same marker, against what is computed now instead
of what was recorded: see the fixtures `references` and `upstream_records`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import parity
import pytest
from reference import cases
from tiny_config import MEMBERS

pytestmark = pytest.mark.reference


@pytest.fixture(scope="module")
def now(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What transformers computes now."""
    from reference import record

    out = tmp_path_factory.mktemp("now")
    record.record_all(out, tmp_path_factory.mktemp("checkpoints"))
    return out


def test_the_same_files_are_recorded(now: Path) -> None:
    recorded = {path.name for path in parity.REFERENCES.iterdir() if not path.name.startswith("upstream_")}
    assert {path.name for path in now.iterdir()} == recorded


@pytest.mark.parametrize("name", sorted(path.name for path in parity.REFERENCES.glob("*.npz")))
def test_arrays_are_the_same(name: str, now: Path) -> None:
    with np.load(parity.REFERENCES / name) as recorded, np.load(now / name) as computed:
        assert sorted(recorded) == sorted(computed)
        for key in recorded:
            if np.issubdtype(recorded[key].dtype, np.floating):
                np.testing.assert_allclose(computed[key], recorded[key], atol=2e-3, rtol=2e-3, err_msg=key)
            else:
                np.testing.assert_array_equal(computed[key], recorded[key], err_msg=key)


@pytest.mark.parametrize("name", ["image_sizes.json", "tokens.json", "videos.json"])
def test_tables_are_the_same(name: str, now: Path) -> None:
    assert json.loads((now / name).read_text("utf-8")) == json.loads(
        (parity.REFERENCES / name).read_text("utf-8")
    )


def test_the_masks_matter(tmp_path: Path) -> None:
    """A causal mask instead of the bidirectional one is far outside the tolerance: a comparison can tell."""
    import tiny
    from reference import record

    recorder = record.Recorder("26b", tiny.write_checkpoint("26b", tmp_path))
    bidirectional = recorder.image_prompt()["logits"]
    recorder.model.config.text_config.use_bidirectional_attention = None
    causal = recorder.image_prompt()["logits"]
    assert parity.divergence(bidirectional, causal).mean() > 1e4 * 1e-5
    assert cases.IMAGE_PROMPT.image_tokens > 32, "the picture must be wider than the sliding window"


@pytest.mark.parametrize("spelling", ["per_layer_config", "global"])
@pytest.mark.parametrize("member", MEMBERS)
def test_checkpoints_load_whole(
    member: str, spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tiny
    import torch
    import transformers

    directory = tiny.write_checkpoint(member, tmp_path, spelling=spelling, shards=2)
    if member.startswith("assistant"):
        # transformers 5.23 refuses its own assistant configs: it looks for a layer that stores what all
        # reuse.
        name = "Gemma4UnifiedTextConfig" if member.endswith("unified") else "Gemma4TextConfig"
        reuse = property(lambda config: ["reuse"] * config.num_hidden_layers)
        monkeypatch.setattr(getattr(transformers, name), "kv_sharing_modes", reuse)
    config = json.loads((directory / "config.json").read_text("utf-8"))
    _, report = getattr(transformers, config["architectures"][0]).from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values()), report


def test_upstream_writes_what_was_recorded(tmp_path: Path) -> None:
    from reference import upstream

    if not os.environ.get(upstream.SOURCE_VARIABLE):
        pytest.skip(f"{upstream.SOURCE_VARIABLE} names no llama.cpp source tree")
    upstream.record_all(tmp_path / "out", tmp_path)
    for case in upstream.CASES:
        name = f"upstream_{case}.json"
        assert (tmp_path / "out" / name).read_text("utf-8") == (parity.REFERENCES / name).read_text("utf-8")
