"""Damaged GGUF files are refused with a sentence, never with a traceback."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_models import write_model
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma4_gguf.convert import quantize_file
from gemma4_gguf.errors import Gemma4Error, GGUFError
from gemma4_gguf.files.gguf_reader import open_gguf, read_rows, require_gemma4
from gemma4_gguf.files.inspect import inspect_file

Fixture = Callable[..., Any]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("sound") / "model-BF16.gguf", n_layers=2, width=64)


@pytest.fixture
def damaged(sound: Path, tmp_path: Path) -> Callable[..., Path]:
    """damaged(offset, bytes) -> a copy with those bytes put there; damaged(cut=n) -> its first n bytes."""

    def make(offset: int = 0, data: bytes = b"", cut: int | None = None) -> Path:
        whole = bytearray(sound.read_bytes())
        whole[offset : offset + len(data)] = data
        path = tmp_path / "damaged.gguf"
        path.write_bytes(whole[:cut])
        return path

    return make


def test_any_cut_is_noticed(sound: Path, tmp_path: Path) -> None:
    file = open_gguf(sound)
    last = list(file.tensors.values())[-1]
    end = last.offset + last.n_bytes
    data = sound.read_bytes()
    path = tmp_path / "cut.gguf"
    for length in [*range(1, file.data_offset, 37), end - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(GGUFError, match=r"cut off|damaged|GGUF"):
            open_gguf(path)
    path.write_bytes(data[:end])
    assert open_gguf(path).tensors == file.tensors


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_damage_is_refused_or_harmless(sound: Path, data: st.DataObject) -> None:
    whole = bytearray(sound.read_bytes())
    header = open_gguf(sound).data_offset
    path = sound.with_name("fuzzed.gguf")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, header - 1))
        patch = data.draw(st.one_of(st.binary(min_size=1, max_size=8), st.just(b"\xff" * 8)))
        whole[at : at + len(patch)] = patch
    path.write_bytes(whole)
    for use in (
        open_gguf,
        inspect_file,
        functools.partial(quantize_file, out_path=None, quant="Q4_0", force=True),
    ):
        try:
            use(path)
        except Gemma4Error as error:
            assert str(error).endswith((".", "--merge"))


def test_what_is_wrong_is_said(damaged: Callable[..., Path], sound: Path, tmp_path: Path) -> None:
    data = sound.read_bytes()
    name = data.index(b"blk.1.attn_k.weight")
    n_dims = name + len(b"blk.1.attn_k.weight")
    kind, offset = n_dims + 4 + 16, n_dims + 4 + 16 + 4
    cases = {
        "does not start with GGUF": (0, b"PK\x03\x04"),
        "version 9": (4, struct.pack("<I", 9)),
        "big-endian": (4, struct.pack(">I", 3)),
        "tensors do not fit": (8, struct.pack("<Q", 2**60)),
        "metadata entries do not fit": (16, struct.pack("<Q", 2**60)),
        "has 7 dimensions": (n_dims, struct.pack("<I", 7)),
        "unknown type 77": (kind, struct.pack("<I", 77)),
        "not a multiple of Q4_K's 256": (kind, struct.pack("<I", 12)),
        "empty shape": (n_dims + 4, struct.pack("<Q", 0)),
        "said to start at 5": (offset, struct.pack("<Q", 5)),
        "is not UTF-8": (name, b"\xff\xff"),
        "occurs twice": (name, b"blk.1.attn_q.weight"),
    }
    for message, (at, patch) in cases.items():
        with pytest.raises(GGUFError, match=message):
            open_gguf(damaged(at, patch))
    (tmp_path / "empty.gguf").write_bytes(b"")
    for path, message in (
        (tmp_path, "not a file"),
        (tmp_path / "none", "not exist"),
        (tmp_path / "empty.gguf", "empty"),
    ):
        with pytest.raises(GGUFError, match=message):
            open_gguf(path)


def test_an_empty_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<QII", 0, 4, 1))
    with pytest.raises(GGUFError, match="a metadata key is empty"):
        open_gguf(path)


def test_kinds(converted: Fixture, tmp_path: Path) -> None:
    files = converted("e2b", "BF16", "BF16")
    assert require_gemma4(open_gguf(files["model"])) == "model"
    assert require_gemma4(open_gguf(files["projector"])) == "projector"
    other = write_model(tmp_path / "other.gguf", n_layers=1, width=32, architecture="llama")
    with pytest.raises(GGUFError, match="holds llama; expected a Gemma 4 model"):
        require_gemma4(open_gguf(other))


def test_rows_and_values(sound: Path) -> None:
    file = open_gguf(sound)
    info = file.tensors["blk.0.attn_q.weight"]
    assert (info.shape, info.type, info.n_rows, info.row_length) == ((2, 64), "BF16", 2, 64)
    both = read_rows(file, info, 0, 2)
    assert both.dtype == np.uint16
    assert (read_rows(file, info, 1, 2) == both[1:]).all()
    assert file.metadata["tokenizer.ggml.tokens"] == ["<pad>", "▁a", "é"]
    assert file.metadata.length("tokenizer.ggml.tokens") == 3
    assert file.metadata.type_name("tokenizer.ggml.tokens") == "[STRING]"
    assert file.metadata.type_name("gemma4.block_count") == "UINT32"
    assert file.metadata["gemma4.attention.sliding_window_pattern"] == [True, True]


def test_a_file_that_shrinks_while_it_is_read(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "shrinks.gguf"
    path.write_bytes(sound.read_bytes())
    file = open_gguf(path)
    path.write_bytes(sound.read_bytes()[:-200])
    first, *_, last = file.tensors.values()
    assert read_rows(file, first, 0, first.n_rows).shape == (first.n_rows, first.row_length)
    with pytest.raises(GGUFError, match="became shorter"):
        read_rows(file, last, 0, last.n_rows)
