"""Converted files against the record of what llama.cpp's own converter writes for the same checkpoints.

Tensors: same names, types, shapes and bytes. Metadata: every key of upstream's with the same type and value;
ours may say more under general.* and bring a chat template where the checkpoint has none.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import parity
import pytest
import tiny
from gguf_description import describe
from tiny_config import MEMBERS

CASES = sorted(path.stem.removeprefix("upstream_") for path in parity.REFERENCES.glob("upstream_*.json"))

# Ours says in words what upstream leaves to be guessed (an absent soft-cap means 30 to llama.cpp).
EXTRA_KEYS = ("general.", "tokenizer.chat_template", "gemma4.final_logit_softcapping", "clip.use_gelu")


# A head that is stored although it is tied: upstream writes the embedding twice.
TIED = {"output.weight"}


def load_record(case: str, folder: Path, checkpoint: Callable[..., Path]) -> dict[str, Any]:
    record = json.loads((folder / f"upstream_{case}.json").read_text(encoding="utf-8"))
    if record["digest"] != tiny.checkpoint_digest(checkpoint(record["member"], **record["options"])):
        pytest.fail(
            f"upstream_{case}.json was recorded from another checkpoint than tiny.py writes now. "
            "Record again: tests/reference/upstream.py says how."
        )
    return dict(record)


def check_same(recorded: dict[str, Any], described: dict[str, Any], *, in_order: bool = True) -> None:
    ours = described["tensors"]
    theirs = {name: tensor for name, tensor in recorded["tensors"].items() if name not in TIED}
    assert sorted(ours) == sorted(theirs)
    assert not in_order or list(ours) == list(theirs)
    assert {name: value for name, value in ours.items() if theirs[name] != value} == {}
    metadata = described["metadata"]
    counted = {"general.size_label"} if len(theirs) < len(recorded["tensors"]) else set()
    different = {
        key: (metadata.get(key), value)
        for key, value in recorded["metadata"].items()
        if metadata.get(key) != value and key not in counted
    }
    assert different == {}, "ours, upstream's"
    extra = [key for key in metadata if key not in recorded["metadata"] and not key.startswith(EXTRA_KEYS)]
    assert extra == []


def test_every_member_but_one_is_recorded() -> None:
    assert set(MEMBERS) - set(CASES) == {"same_head_dim"}, "upstream cannot convert that one"


@pytest.mark.parametrize("case", CASES)
def test_files_equal_upstreams(
    case: str,
    upstream_records: Path,
    checkpoint: Callable[..., Path],
    converted: Callable[..., dict[str, Path]],
) -> None:
    record = load_record(case, upstream_records, checkpoint)
    outtypes = sorted(name.removeprefix("model-") for name in record if name.startswith("model-"))
    assert outtypes
    for outtype in outtypes:
        files = converted(record["member"], outtype.upper(), outtype.upper(), **record["options"])
        check_same(record[f"model-{outtype}"], describe(files["model"]))
        if projector := record.get(f"projector-{outtype}"):
            check_same(projector, describe(files["projector"]))


SPELLINGS: dict[str, dict[str, Any]] = {
    "global": {"spelling": "global"},
    "per-layer": {"spelling": "per_layer_config"},
    "sharded": {"shards": 3},
    "nested": {"names": "nested"},
    "flat": {"names": "flat"},
}


@pytest.mark.parametrize(
    ("member", "options"),
    [
        pytest.param(member, options, id=f"{member}-{name}")
        for member in ("e2b", "26b", "12b", "assistant")
        for name, options in SPELLINGS.items()
    ]
    + [pytest.param("26b", {"experts": "separate"}, id="26b-separate-experts")],
)
def test_every_spelling_of_a_checkpoint_gives_the_same_file(
    member: str,
    options: dict[str, Any],
    checkpoint: Callable[..., Path],
    converted: Callable[..., dict[str, Path]],
) -> None:
    record = load_record(member, parity.REFERENCES, checkpoint)
    files = converted(member, "BF16", "BF16", **(record["options"] | options))
    for kind, path in files.items():
        # Upstream keeps the order in which the checkpoint stores its tensors, so that may differ.
        check_same(record[f"{kind}-bf16"], describe(path), in_order=False)
