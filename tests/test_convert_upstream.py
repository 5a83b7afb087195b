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

RECORDED = sorted(path.stem.removeprefix("upstream_") for path in parity.REFERENCES.glob("upstream_*.json"))
OUTTYPES = ("f32", "f16", "bf16", "q8_0")

# Keys that say in words what upstream leaves to be guessed.
EXTRA_KEYS = ("general.", "tokenizer.chat_template", "clip.use_gelu")


def load_record(member: str, checkpoint: Callable[..., Path], folder: Path) -> dict[str, Any]:
    record = json.loads((folder / f"upstream_{member}.json").read_text(encoding="utf-8"))
    if record["digest"] != tiny.checkpoint_digest(checkpoint(member, **record["options"])):
        pytest.fail(
            f"upstream_{member}.json was recorded from another checkpoint than tests/tiny.py writes now. "
            "Record again: tests/reference/upstream.py says how."
        )
    return dict(record)


def check_same(recorded: dict[str, Any], described: dict[str, Any]) -> None:
    ours, theirs = described["tensors"], recorded["tensors"]
    assert sorted(ours) == sorted(theirs)
    assert {name: value for name, value in ours.items() if theirs[name] != value} == {}
    metadata = described["metadata"]
    different = {
        key: (metadata.get(key), value)
        for key, value in recorded["metadata"].items()
        if metadata.get(key) != value
    }
    assert different == {}, "ours, upstream's"
    extra = [key for key in metadata if key not in recorded["metadata"] and not key.startswith(EXTRA_KEYS)]
    assert extra == []


def test_every_member_but_one_is_recorded() -> None:
    assert set(MEMBERS) - set(RECORDED) == {"same_head_dim"}, "upstream cannot convert that one"


@pytest.mark.parametrize("outtype", OUTTYPES)
@pytest.mark.parametrize("member", RECORDED)
def test_files_equal_upstreams(
    member: str,
    outtype: str,
    upstream_records: Path,
    checkpoint: Callable[..., Path],
    converted: Callable[..., dict[str, Path]],
) -> None:
    record = load_record(member, checkpoint, upstream_records)
    files = converted(member, outtype.upper(), outtype.upper(), **record["options"])
    assert ("projector" in files) == (f"projector-{outtype}" in record)
    for kind, path in files.items():
        check_same(record[f"{kind}-{outtype}"], describe(path))


SPELLINGS: dict[str, dict[str, Any]] = {
    "global": {"spelling": "global"},
    "per-layer": {"spelling": "per_layer_config"},
    "sharded": {"shards": 3},
    "nested": {"names": "nested"},
    "flat": {"names": "flat"},
    "separate-experts": {"experts": "separate"},
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("member", ["e2b", "26b", "12b", "assistant"])
def test_every_spelling_of_a_checkpoint_gives_the_same_file(
    member: str,
    spelling: str,
    checkpoint: Callable[..., Path],
    converted: Callable[..., dict[str, Path]],
) -> None:
    if spelling == "separate-experts" and member != "26b":
        pytest.skip("no experts")
    record = load_record(member, checkpoint, parity.REFERENCES)
    files = converted(member, "BF16", "BF16", **(record["options"] | SPELLINGS[spelling]))
    for kind, path in files.items():
        check_same(record[f"{kind}-bf16"], describe(path))
