"""The command line: what goes to stdout and stderr, exit codes, and that it only hands on what was typed."""

from __future__ import annotations

import inspect as python_inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from gemma4_gguf import Session, errors
from gemma4_gguf.cli import output
from gemma4_gguf.cli.errors import EXIT_BUG, EXIT_CODES, EXIT_INTERRUPTED, EXIT_PIPE, exit_code
from gemma4_gguf.cli.main import COMMANDS, build_parser, main
from gemma4_gguf.cli.options import given
from gemma4_gguf.files.gguf_reader import open_gguf, require_gemma4
from gemma4_gguf.options import SamplingOptions, SessionOptions

Converted = Callable[..., dict[str, Path]]


def make(kind: type[errors.Gemma4Error]) -> errors.Gemma4Error:
    extra = {
        errors.ContextFullError: {"n_tokens": 9, "n_ctx": 8},
        errors.IncompleteReplyError: {"text": ""},
        errors.InvalidReplyError: {"text": ""},
    }
    return kind("what went wrong", **extra.get(kind, {}))


ALL_ERRORS = [
    kind
    for _, kind in python_inspect.getmembers(errors, python_inspect.isclass)
    if issubclass(kind, errors.Gemma4Error)
]


@pytest.mark.parametrize("kind", ALL_ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_is_one_sentence_and_a_code(
    kind: type[errors.Gemma4Error], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> int:
        raise make(kind)

    monkeypatch.setattr("gemma4_gguf.cli.devices.run", fail)
    code = main(["devices"])
    out, err = capsys.readouterr()
    assert code == exit_code(make(kind)) not in (0, EXIT_BUG)
    assert out == "" and err.startswith("error: what went wrong") and err.count("\n") == 1


def test_a_subclass_stands_above_its_base_in_the_table() -> None:
    kinds = [kind for kind, _ in EXIT_CODES]
    for i, kind in enumerate(kinds):
        assert not any(issubclass(later, kind) and later is not kind for later in kinds[i + 1 :])


def test_a_bug_says_so_and_shows_its_traceback_when_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> int:
        raise ZeroDivisionError("by [zero]")

    monkeypatch.setattr("gemma4_gguf.cli.devices.run", fail)
    assert main(["devices"]) == EXIT_BUG
    err = capsys.readouterr().err
    assert "bug: ZeroDivisionError: by [zero]" in err and "GEMMA4_GGUF_DEBUG=1" in err
    monkeypatch.setenv("GEMMA4_GGUF_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["devices"])


def test_ctrl_c_ends_with_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("gemma4_gguf.cli.devices.run", interrupt)
    assert main(["devices"]) == EXIT_INTERRUPTED
    assert capsys.readouterr().out == ""


def test_a_reader_that_hangs_up_is_no_error() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "gemma4_gguf", "devices"]
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (EXIT_PIPE, "")


def test_without_a_command_the_help_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "gemma4-gguf demo" in err


@pytest.mark.parametrize("module", COMMANDS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_command_has_help(module: object, capsys: pytest.CaptureFixture[str]) -> None:
    name = module.__name__.rpartition(".")[2]  # type: ignore[attr-defined]
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert f"usage: gemma4-gguf {name}" in capsys.readouterr().out


def test_only_what_was_typed_is_handed_on() -> None:
    parser = build_parser()
    bare = parser.parse_args(["ask", "m.gguf", "hello"])
    assert given(bare, SamplingOptions) == {} and given(bare, SessionOptions) == {}
    options = "--temperature 0 --top-k 3 --seed 7 --max-tokens 5 --ctx 512 --threads 2"
    typed = parser.parse_args(["ask", "m.gguf", "hello", *options.split()])
    assert given(typed, SamplingOptions) == {"temperature": 0.0, "top_k": 3, "seed": 7, "max_tokens": 5}
    assert given(typed, SessionOptions) == {"n_ctx": 512, "n_threads": 2}


@pytest.mark.parametrize("command", ["ask", "chat"])
def test_every_option_is_a_field_or_a_part_of_the_turn(command: str) -> None:
    known = {field.name for kind in (SamplingOptions, SessionOptions) for field in fields(kind)}
    known |= {
        "first",
        "model",
        "projector",
        "prompt",
        "image",
        "audio",
        "video",
        "system",
        "think",
        "image_tokens",
        "json",
        "schema",
        "pattern",
        "load",
        "on_full",
        "help",
    }
    known |= {"command", "run"}
    typed = ["--top-k", "1", "--ctx", "9", "--kv-type", "f16", "--gpu-layers", "0", "--mmproj", "p.gguf"]
    parsed = vars(build_parser().parse_args([command, "m.gguf", *typed, "--seed", "1", "--min-p", "0.1"]))
    assert len(parsed) > 15 and set(parsed) <= known


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (2_249_000, "2.2 MB"), (9_270_000_000, "9.27 GB")],
)
def test_sizes_for_people(n_bytes: int, text: str) -> None:
    assert output.size(n_bytes) == text


@pytest.mark.parametrize(("n", "text"), [(12, "12"), (3_970_000, "3.97 M"), (5_104_297_504, "5.10 B")])
def test_counts_for_people(n: int, text: str) -> None:
    assert output.count(n) == text


def test_convert_prints_paths_and_keeps_progress_apart(
    checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = checkpoint("e2b")
    assert main(["convert", str(source), "-o", str(tmp_path), "-q", "Q8_0", "--mmproj-type", "F16"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        str(tmp_path / f"{source.name}-Q8_0.gguf"),
        str(tmp_path / f"mmproj-{source.name}-F16.gguf"),
    ]
    assert " in " in err and "error" not in err
    opened = [open_gguf(line) for line in out.splitlines()]
    assert [require_gemma4(file) for file in opened] == ["model", "projector"]
    types = [{tensor.type for tensor in file.tensors.values()} for file in opened]
    assert "Q8_0" in types[0] and "F16" in types[1]


def test_convert_refuses_to_replace_unless_forced(
    checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["convert", str(checkpoint("e2b_text")), "-o", str(tmp_path), "--quiet"]
    assert main(command) == 0
    (path,) = capsys.readouterr().out.splitlines()
    before = Path(path).stat().st_mtime_ns
    assert main(command) == 5
    assert "--force" in capsys.readouterr().err and Path(path).stat().st_mtime_ns == before
    assert main([*command, "--force"]) == 0
    assert Path(path).stat().st_mtime_ns > before


def test_convert_names_the_files_and_says_what_it_noticed(
    checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    shutil.copytree(checkpoint("e2b_text"), source)
    (source / "chat_template.jinja").write_text("<|im_start|>{{ messages }}")
    command = ["convert", str(source), "-o", str(tmp_path), "-q", "Q8_0", "--name", "some-org/My-Model"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'My-Model-Q8_0.gguf'}\n"
    assert "note: The chat template is ChatML" in err
    assert open_gguf(out.strip()).metadata["general.organization"] == "Some Org"
    assert main(["inspect", out.strip()]) == 0
    assert "The chat template is ChatML" in capsys.readouterr().out
    with pytest.warns(UserWarning, match="The chat template is ChatML"), Session(out.strip(), device="cpu"):
        pass


def test_convert_without_projector(
    checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["convert", str(checkpoint("e2b")), "-o", str(tmp_path), "--no-mmproj", "--json", "--quiet"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert [Path(f["path"]) for f in result["files"]] == sorted(tmp_path.iterdir())
    assert len(result["files"]) == 1 and err == ""


def test_unknown_type_is_a_usage_error_that_lists_the_known(
    checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(checkpoint("e2b_text")), "-o", str(tmp_path), "-q", "Q4_K_X"]) == 2
    err = capsys.readouterr().err
    assert "Q4_K_X" in err and "Q4_K_M" in err and not list(tmp_path.iterdir())


def test_quantize_writes_beside_the_source(
    converted: Converted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "tiny-BF16.gguf"
    source.write_bytes(converted("e2b", quant="BF16")["model"].read_bytes())
    assert main(["quantize", str(source), "q4_k_m", "--json", "--quiet"]) == 0
    (file,) = json.loads(capsys.readouterr().out)["files"]
    assert Path(file["path"]) == tmp_path / "tiny-Q4_K_M.gguf"
    assert file["bytes"] == Path(file["path"]).stat().st_size < source.stat().st_size


def test_source_that_is_neither_path_nor_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(tmp_path / "nothing"), "-o", str(tmp_path)]) == 3
    assert "does not exist" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "nothing.gguf")]) == 6
    assert main(["ask", str(tmp_path / "nothing.gguf"), "hello"]) == 6
    assert "does not exist" in capsys.readouterr().err
    assert main(["convert", "nothing", "-o", str(tmp_path)]) == 4
    assert "as a path it does not exist" in capsys.readouterr().err


def test_devices_lists_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--json"]) == 0
    assert "cpu" in {device["kind"] for device in json.loads(capsys.readouterr().out)}
