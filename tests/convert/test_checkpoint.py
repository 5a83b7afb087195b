"""Checkpoint directories: what is read from good ones, and how every kind of damage is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma4_gguf.convert.checkpoint import INDEX, Checkpoint, open_checkpoint
from gemma4_gguf.convert.safetensors import read_header
from gemma4_gguf.errors import CheckpointError, TensorError

SMALL = {
    "a": ("F32", np.arange(6, dtype="<f4").reshape(2, 3)),
    "b": ("BF16", np.arange(4, dtype="<u2").reshape(4)),
    "c": ("F16", np.array(2.5, dtype="<f2")),
    "d": ("I64", np.arange(3, dtype="<i8")),
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A directory with a config and one safetensors file of four tensors."""
    (tmp_path / "config.json").write_text("{}")
    tiny.write_safetensors(tmp_path / "model.safetensors", SMALL)
    return tmp_path


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Replace the header of a safetensors file by what `change` makes of it; bytes go in as they are."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    changed = change(header)
    text = (
        changed if isinstance(changed, bytes) else json.dumps(header if changed is None else changed).encode()
    )
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


# Good files


def test_rows_are_read_as_stored(small: Path) -> None:
    tensors = open_checkpoint(small).tensors
    assert list(tensors) == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(tensors["a"].read(1, 2), [[3, 4, 5]])
    assert tensors["a"].read(0, 2).dtype == np.float32
    np.testing.assert_array_equal(tensors["b"].read(0, 1), [[0, 1, 2, 3]])
    assert tensors["b"].read(0, 1).dtype == np.uint16
    assert tensors["c"].read(0, 1).tolist() == [[2.5]]
    assert tensors["a"].read(1, 1).shape == (0, 3)


def test_integers_are_no_weights(small: Path) -> None:
    with pytest.raises(TensorError, match=r"d is stored as I64"):
        open_checkpoint(small).tensors["d"].read(0, 1)


def test_only_the_rows_asked_for_are_read(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = open_checkpoint(small).tensors["a"]
    lengths: list[int] = []
    real_open = Path.open

    def counting_open(self: Path, *args: Any, **options: Any) -> Any:
        file = real_open(self, *args, **options)
        raw = getattr(file, "raw", file)

        class Counting:
            def __enter__(self) -> Counting:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def seek(self, offset: int) -> int:
                return int(raw.seek(offset))

            def readinto(self, view: memoryview) -> int:
                count = int(raw.readinto(view))
                lengths.append(count)
                return count

        return Counting()

    monkeypatch.setattr(Path, "open", counting_open)
    tensor.read(1, 2)
    assert sum(lengths) == 12


def test_shards_with_and_without_an_index(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    whole = open_checkpoint(checkpoint("31b"))
    sharded = open_checkpoint(checkpoint("31b", shards=3))
    assert set(whole.tensors) == set(sharded.tensors)
    for name, tensor in whole.tensors.items():
        assert (
            tensor.read(0, tensor.n_rows).tobytes() == sharded.tensors[name].read(0, tensor.n_rows).tobytes()
        )
    for path in sharded.directory.iterdir():
        if path.name != INDEX:
            (tmp_path / path.name).symlink_to(path)
    assert list(open_checkpoint(tmp_path).tensors) == list(sharded.tensors)


def test_the_name_is_the_directory_or_what_is_given(small: Path) -> None:
    assert open_checkpoint(small).name == small.name
    assert open_checkpoint(small, name="org/model").name == "org/model"
    assert open_checkpoint(small).json("nothing.json") is None


# Directories


def spoil_config(directory: Path) -> None:
    (directory / "config.json").write_text("{")


def list_config(directory: Path) -> None:
    (directory / "config.json").write_text("[]")


def adapter(directory: Path) -> None:
    (directory / "config.json").rename(directory / "adapter_config.json")


def pytorch_weights(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def one_shard_of_two(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "model-00001-of-00002.safetensors")


def index_with(weight_map: Any) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        if weight_map is None or "model.safetensors" not in weight_map.values():
            (directory / "model.safetensors").rename(directory / "one.safetensors")
        (directory / INDEX).write_text(json.dumps({"weight_map": weight_map}))

    return write


def same_tensor_twice(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "model_1.safetensors")
    tiny.write_safetensors(directory / "model_2.safetensors", {"a": SMALL["a"]})


def two_files_of_any_name(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "one.safetensors")
    tiny.write_safetensors(directory / "two.safetensors", {"z": SMALL["a"]})


def two_sets_of_shards(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "model-00001-of-00001.safetensors")
    tiny.write_safetensors(directory / "model-00001-of-00002.safetensors", {"z": SMALL["a"]})


def index_of_others(directory: Path) -> None:
    (directory / INDEX).write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))


def link(directory: Path, name: str) -> None:
    (directory / name).unlink()
    (directory / name).symlink_to("nowhere")


HERE = dict.fromkeys(SMALL, "model.safetensors")

DIRECTORIES: list[tuple[Callable[[Path], Any], str]] = [
    (lambda d: (d / "config.json").unlink(), r"has no config\.json"),
    (lambda d: (d / "model.safetensors").unlink(), r"has no weights"),
    (spoil_config, r"config\.json is not valid JSON"),
    (list_config, r"config\.json holds a JSON list"),
    (adapter, r"LoRA adapter"),
    (pytorch_weights, r"PyTorch \.bin"),
    (one_shard_of_two, r"no complete set of shards"),
    (same_tensor_twice, r"a is in model_1\.safetensors and again in model_2\.safetensors"),
    (index_with(None), r"no weight_map"),
    (index_with(HERE | {"e": "model-2.safetensors"}), r"1 of 2 shards .* missing: model-2"),
    (index_with(HERE | {"e": "model.safetensors"}), r"lacks 1 tensors .*: e"),
    (index_with({"a": "model.safetensors"}), r"holds 3 tensors .*: b, c, d"),
    (index_with({"a": "../model.safetensors"}), r"not a file of this directory"),
    (index_with({"a": ".."}), r"is a directory; expected a file"),
    (index_with({"a": "x\0"}), r"not a file of this directory"),
    (index_with({"a": ["one.safetensors"]}), r"not a file of this directory|are missing"),
    (lambda d: (d / "model.safetensors").rename(d / "adapter_model.safetensors"), r"LoRA adapter"),
    (two_files_of_any_name, r"2 weight files and nothing that says"),
    (two_sets_of_shards, r"no complete set of shards"),
    (lambda d: link(d, "model.safetensors"), r"model\.safetensors is not there\. Is it a link"),
]


OTHERS: dict[str, Callable[[Path], Any]] = {
    "an index of other files": index_of_others,
    "consolidated": lambda d: (d / "consolidated.safetensors").write_bytes(b"twice"),
    "shards": lambda d: (d / "model-00001-of-00002.safetensors").write_bytes(b"stale"),
    "a variant": lambda d: (d / "model.fp16.safetensors").write_bytes(b"again"),
    "an adapter": lambda d: (d / "adapter_model.safetensors").write_bytes(b"adapter"),
    "an optimizer": lambda d: (d / "optimizer.safetensors").write_bytes(b"state"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_else_lies_there_is_not_read(small: Path, other: str) -> None:
    OTHERS[other](small)
    found = open_checkpoint(small)
    assert list(found.tensors) == ["a", "b", "c", "d"]
    said = " ".join(found.notes)
    assert ("Not read" in said) == any(word in other for word in ("consolidated", "shards", "variant"))


def test_shards_beside_a_consolidated_file_are_counted_once(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(checkpoint("31b", shards=3), tmp_path / "model"))
    shutil.copy(checkpoint("31b") / "model.safetensors", copied / "consolidated.safetensors")
    whole = set(open_checkpoint(checkpoint("31b")).tensors)
    assert set(open_checkpoint(copied).tensors) == whole
    (copied / INDEX).unlink()
    assert set(open_checkpoint(copied).tensors) == whole


def test_weights_of_any_one_name_are_taken(small: Path) -> None:
    (small / "model.safetensors").rename(small / "consolidated.safetensors")
    assert list(open_checkpoint(small).tensors) == ["a", "b", "c", "d"]
    (small / "consolidated.safetensors").rename(small / "gemma-00001-of-00001.safetensors")
    assert list(open_checkpoint(small).tensors) == ["a", "b", "c", "d"]


def test_adapter_files_beside_whole_weights_are_said(small: Path) -> None:
    (small / "adapter_config.json").write_text("{}")
    assert "without it" in open_checkpoint(small).notes[0]


@pytest.mark.parametrize(("spoil", "message"), DIRECTORIES, ids=[message for _, message in DIRECTORIES])
def test_an_unusable_directory_is_refused(small: Path, spoil: Callable[[Path], Any], message: str) -> None:
    spoil(small)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(small)


def test_no_directory_at_all(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a directory"):
        open_checkpoint(tmp_path / "absent")


@pytest.mark.parametrize(
    ("source", "is_id"),
    [
        ("org/my-model", True),
        ("org/name-1.5", True),
        ("models", False),
        ("./org/name", True),
        ("a/b/c", False),
    ],
)
def test_what_looks_like_a_hub_id_is_told_apart(
    source: str, is_id: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=f"^{Path(source)} is not a directory") as caught:
        open_checkpoint(Path(source))
    assert ("gemma4_gguf.pull(" in str(caught.value)) == is_id
    if is_id:
        Path(source).parent.mkdir()
        Path(source).touch()
        with pytest.raises(CheckpointError, match=r"holds config\.json\.$"):
            open_checkpoint(Path(source))


# Headers


def cut(n_bytes: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[:n_bytes])


def entry(name: str, **values: Any) -> Callable[[Path], None]:
    return lambda path: rewrite(path, lambda header: header[name].update(values))


def text(value: bytes) -> Callable[[Path], None]:
    return lambda path: rewrite(path, lambda header: value)


def claim(length: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])


ONE = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
TWICE = b"{" + ONE + b"," + ONE + b"}"

HEADERS: list[tuple[Callable[[Path], Any], str]] = [
    (cut(0), r"header claims 0 bytes, the file has 0"),
    (cut(5), r"truncated or no safetensors file"),
    (cut(100), r"truncated or no safetensors file"),
    (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"truncated: d ends at byte"),
    (lambda path: path.write_bytes(path.read_bytes() + b"x"), r"has 1 bytes after d"),
    (claim(2**63), r"header claims 9223372036854775808"),
    (text(b"{"), r"not valid JSON"),
    (text(b"[" * 100_000), r"not valid JSON"),
    (text(b"[]"), r"no JSON object"),
    (text(TWICE), r"names a twice"),
    (entry("a", dtype="F31"), r"a has the unknown dtype 'F31'"),
    (entry("a", dtype=None), r"a has the unknown dtype None"),
    (entry("a", shape=[2, -3]), r"a has the shape \[2, -3\]"),
    (entry("a", shape="23"), r"a has the shape '23'"),
    (entry("a", shape=[2, True]), r"a has the shape"),
    (entry("a", shape=[2, 4]), r"a takes 24 bytes, but F32 of shape \[2, 4\] needs 32"),
    (entry("a", shape=[2**40, 2**40]), r"a takes 24 bytes"),
    (entry("a", data_offsets=[0]), r"a has the data_offsets"),
    (entry("a", data_offsets=[24, 0]), r"a takes -24 bytes"),
    (entry("b", data_offsets=[16, 24]), r"b overlaps a"),
    (entry("d", data_offsets=[2**50, 2**50 + 24]), r"d ends at byte"),
    (lambda path: rewrite(path, lambda header: header.pop("b") and None), r"c leaves a gap after a"),
    (lambda path: rewrite(path, lambda header: header["a"].pop("dtype") and None), r"a lacks dtype"),
    (lambda path: rewrite(path, lambda header: {"a": 1}), r"a lacks dtype"),
]


@pytest.mark.parametrize(("spoil", "message"), HEADERS, ids=[message for _, message in HEADERS])
def test_a_damaged_header_is_named(small: Path, spoil: Callable[[Path], Any], message: str) -> None:
    path = small / "model.safetensors"
    spoil(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(small)
    assert str(path) in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 400), value=st.integers(0, 255))
def test_no_byte_of_a_header_can_break_the_reader(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    tiny.write_safetensors(path, SMALL)
    data = bytearray(path.read_bytes())
    data[min(position, len(data) - 1)] = value
    path.write_bytes(data)
    try:
        tensors = read_header(path)
    except CheckpointError:
        return
    for tensor in tensors.values():
        assert tensor.offset + tensor.n_rows * tensor.row_length <= len(data)


def test_a_file_that_shrinks_is_noticed(small: Path) -> None:
    found: Checkpoint = open_checkpoint(small)
    path = small / "model.safetensors"
    path.write_bytes(path.read_bytes()[: found.tensors["a"].offset + 4])
    with pytest.raises(CheckpointError, match=r"ends inside a: 4 of 24 bytes"):
        found.tensors["a"].read(0, 2)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"cannot read a"):
        found.tensors["a"].read(0, 2)
