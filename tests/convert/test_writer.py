"""What the writer puts into files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from output_files import FIELDS, names, numbers, output, tensor

from gemma4_gguf.convert import writer
from gemma4_gguf.convert.ggml_encoder import BlockEncoder, first_bad_row
from gemma4_gguf.convert.progress import Progress
from gemma4_gguf.convert.writer import write_files
from gemma4_gguf.errors import TensorError
from gemma4_gguf.files.gguf_header import pack_fields, pack_header
from gemma4_gguf.files.gguf_reader import open_gguf, read_rows


def test_ggufs_own_reader_agrees(tmp_path: Path) -> None:
    values = {"one": numbers(5, 64), "two.weight": numbers(3, 2, 32, seed=1), "three": numbers(7, seed=2)}
    kinds = {"one": "Q8_0", "two.weight": "F16", "three": "F32"}
    write_files([output(tmp_path / "f.gguf", *(tensor(n, v, kinds[n]) for n, v in values.items()))])
    theirs, ours = gguf.GGUFReader(tmp_path / "f.gguf"), open_gguf(tmp_path / "f.gguf")
    assert [t.name for t in theirs.tensors] == list(values) == list(ours.tensors)
    for found in theirs.tensors:
        expected = gguf.quants.quantize(values[found.name], gguf.GGMLQuantizationType[kinds[found.name]])
        np.testing.assert_array_equal(found.data.reshape(expected.shape), expected)
        info = ours.tensors[found.name]
        assert list(reversed(info.shape)) == found.shape.tolist()
        assert (info.offset, info.n_bytes) == (found.data_offset, found.n_bytes)
    for field in FIELDS:
        read = theirs.fields[field.key].contents()
        assert read == ours.metadata[field.key] or read == pytest.approx(field.value)
        if "float" not in field.key:
            assert ours.metadata[field.key] == field.value


def test_header_is_what_gguf_writes(tmp_path: Path) -> None:
    reference = gguf.GGUFWriter(tmp_path / "f.gguf", "gemma4")
    for field in FIELDS[1:]:
        sub_type = gguf.GGUFValueType[field.item_type] if field.item_type else None
        reference.add_key_value(field.key, field.value, gguf.GGUFValueType[field.gguf_type], sub_type)
    reference.write_header_to_file()
    reference.write_kv_data_to_file()
    reference.close()
    assert pack_header(pack_fields(FIELDS), []).data.rstrip(b"\0") == (
        tmp_path / "f.gguf"
    ).read_bytes().rstrip(b"\0")


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0"])
@pytest.mark.parametrize("scale", [1.0, 1e-40, 1e30, 0.0])
def test_converter_types_equal_the_python_reference(kind: str, scale: float) -> None:
    values = numbers(8, 64) * np.float32(scale)
    with np.errstate(all="ignore"):
        expected = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    found = BlockEncoder(values.size).encode(values, "F32", None, kind)
    np.testing.assert_array_equal(found, expected.view(np.uint8).reshape(-1))


def test_rounding_on_the_way() -> None:
    values = numbers(4, 256)
    encoder = BlockEncoder(values.size)
    rounded = gguf.quants.quantize(values, gguf.GGMLQuantizationType.BF16).view(np.uint16)
    expected = encoder.encode(rounded, "BF16", None, "Q6_K").copy()
    assert (encoder.encode(values, "F32", "BF16", "Q6_K") == expected).all()
    assert (encoder.encode(values, "F32", None, "Q6_K") != expected).any()


@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_threads_writes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    values = {f"t{i}": numbers(50 + 2 * i, 256, seed=i) for i in range(8)}
    expected = b"".join(
        BlockEncoder(v.size).encode(v, "F32", None, "Q4_K").tobytes() for v in values.values()
    )
    monkeypatch.setattr(writer, "ENCODED_SLICE", 1000)
    file = output(tmp_path / "f.gguf", *(tensor(n, v, "Q4_K") for n, v in values.items()))
    write_files([file], threads=threads)
    data = (tmp_path / "f.gguf").read_bytes()  # an even number of 144-byte rows needs no padding
    assert data[open_gguf(tmp_path / "f.gguf").data_offset :] == expected


def test_progress_adds_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "ENCODED_SLICE", 512)
    steps: list[Progress] = []
    one = output(tmp_path / "a.gguf", tensor("x", numbers(40, 256), "Q4_K"), tensor("y", numbers(9), "F32"))
    two = output(tmp_path / "mmproj-a.gguf", tensor("z", numbers(8, 32), "Q8_0"))
    write_files([one, two], threads=2, progress=steps.append)
    assert {step.tensor for step in steps} == {"x", "y", "z"}
    assert {step.file for step in steps} == {"a.gguf", "mmproj-a.gguf"}
    assert [s.done_bytes for s in steps] == sorted(s.done_bytes for s in steps)
    assert [s.fraction for s in steps] == sorted(s.fraction for s in steps)
    assert steps[-1].done_bytes == steps[-1].total_bytes == 40 * 144 + 36 + 8 * 34
    assert steps[-1].fraction == pytest.approx(1)
    assert len(steps) == 20 + 1 + 1, "two rows of x make a slice"


def test_memory_is_bounded_by_slices(tmp_path: Path) -> None:
    """1.1 GB of float32 through Q8_0 in a child whose address space could not hold it."""
    pytest.importorskip("resource")
    script = """
import resource, sys
from pathlib import Path
import numpy as np
from gemma4_gguf.convert.ggml_encoder import BlockEncoder
from gemma4_gguf.convert.writer import OutputFile, OutputTensor, write_files
BlockEncoder(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read = lambda start, stop: np.full((stop - start, 4096), 0.5, np.float32)
big = OutputTensor("big", (70_000, 4096), "Q8_0", "F32", None, read)
write_files([OutputFile(Path(sys.argv[1]), [], [big], True)], threads=2)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "big.gguf")], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 64  # MiB
    assert open_gguf(tmp_path / "big.gguf").tensors["big"].n_bytes == 70_000 * 128 * 34


# Weights that are not numbers


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("raw_type", ["F32", "F16", "BF16"])
def test_bad_numbers_are_named(tmp_path: Path, bad: float, raw_type: str) -> None:
    values = numbers(700, 1024)
    values[650, 3] = bad
    stored = {
        "F32": values,
        "F16": values.astype(np.float16),
        "BF16": (values.view(np.uint32) >> 16).astype(np.uint16),
    }
    assert first_bad_row(stored[raw_type], raw_type, allow_infinity=False) == 650
    assert first_bad_row(stored[raw_type], raw_type, allow_infinity=True) == (650 if np.isnan(bad) else None)
    (tmp_path / "f.gguf").write_bytes(b"old")
    bad_tensor = tensor("blk.3.attn_q.weight", stored[raw_type], "Q4_K", raw_type=raw_type)
    with pytest.raises(TensorError, match=r"'blk\.3\.attn_q\.weight' .*row 650 of 700"):
        write_files(
            [output(tmp_path / "f.gguf", tensor("a", numbers(4, 256), "Q4_K"), bad_tensor)], force=True
        )
    assert names(tmp_path) == ["f.gguf"]
    assert (tmp_path / "f.gguf").read_bytes() == b"old"


def test_plain_files_keep_bad_numbers(tmp_path: Path) -> None:
    values = numbers(2, 32)
    values[1, 1] = np.nan
    write_files([output(tmp_path / "f.gguf", tensor("a", values, "BF16"), check=False)])
    assert open_gguf(tmp_path / "f.gguf").tensors["a"].type == "BF16"


def test_infinite_clamps_are_no_weights(tmp_path: Path) -> None:
    clamp = np.array([np.inf], np.float32)
    write_files([output(tmp_path / "f.gguf", tensor("v.blk.0.input_max", clamp, "F32"))])
    file = open_gguf(tmp_path / "f.gguf")
    assert read_rows(file, file.tensors["v.blk.0.input_max"], 0, 1).tolist() == [[np.inf]]


def test_numbers_beyond_a_types_range(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TensorError, match="too large for Q4_K"):
        write_files([output(tmp_path / "f.gguf", tensor("a", numbers(1, 256) * np.float32(1e37), "Q4_K"))])
    assert names(tmp_path) == []
