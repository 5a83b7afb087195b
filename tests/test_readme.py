"""Every example of the README runs, on tiny models that stand where it names real ones."""

from __future__ import annotations

import io
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clips import clip
from media_samples import speech, wav
from readme import COMMANDS, MODEL, OWN, README, ROOT, blocks, run_block

from gemma4_gguf.cli.main import build_parser, main
from gemma4_gguf.generation import Turn
from gemma4_gguf.session import Session

CI = (ROOT / ".ci/run").read_text("utf-8")
NANO = ROOT / "gemma4_gguf/nano"
MAX_TOKENS = 12  # random weights have no reason to stop


@pytest.fixture
def place(
    converted: Callable[..., dict[str, Path]],
    checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Path]:
    """A directory with the files that the README names, and replies kept short."""
    files = converted("e2b", quant="Q8_0")
    (tmp_path / "models").mkdir()
    shutil.copyfile(files["model"], tmp_path / "models" / MODEL)
    shutil.copyfile(files["projector"], tmp_path / "models/mmproj-gemma-4-E2B-it-BF16.gguf")
    shutil.copytree(checkpoint("e2b"), tmp_path / "checkpoints/my-finetune")
    for name in ("sign.jpg", "street.png", "receipt.jpg"):
        shutil.copyfile(NANO / "samples/scene1.png", tmp_path / name)
    for name in ("voice.wav", "talk.mp3"):
        (tmp_path / name).write_bytes(wav(speech(1)))
    (tmp_path / "holiday.mp4").write_bytes(clip(40, 10, sound=True))
    generate = Session.generate

    (tmp_path / "receipt.json").write_text('{"type": "object", "properties": {"shop": {"type": "string"}}}')

    def short(self: Session, turn: Turn, **options: Any) -> Any:
        sampling = replace(turn.sampling, max_tokens=MAX_TOKENS)
        if turn.rules.value is not None:  # random weights would never close a text, a list or a number
            ends = tuple((i, 40.0) for text in '"}],' for i in self.tokenize(text))
            sampling = replace(sampling, max_tokens=200, temperature=0, logit_bias=ends)
        return generate(self, replace(turn, sampling=sampling), **options)

    monkeypatch.setattr(Session, "generate", short)
    monkeypatch.chdir(tmp_path)
    yield tmp_path


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_examples_run(number: int, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(place.rglob("*"))
    run_block(blocks("python")[number])
    assert capsys.readouterr().out.strip() or set(place.rglob("*")) > before, "the example shows nothing"


@pytest.mark.parametrize("line", OWN)
def test_commands_are_understood(line: str) -> None:
    words = shlex.split(line)[1:]
    values = vars(build_parser().parse_args(words)).values()
    taken = {str(one) for value in values for one in (value if isinstance(value, list | tuple) else [value])}
    assert {word for word in words if not word.startswith("-")} <= taken


RUN = ("convert checkpoints", "ask", "inspect", "detect", "describe", "transcribe")


@pytest.mark.parametrize("line", [c for c in OWN if any(f" {words} " in c for words in RUN)])
def test_commands_run(line: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = shlex.split(line)[1:]
    before = set(place.rglob("*"))
    assert main(args) == 0
    made = {str(path.relative_to(place)) for path in set(place.rglob("*")) - before}
    out = capsys.readouterr().out
    if args[0] == "convert":
        assert made == set(out.split()) and len(made) == 2
    elif "-o" in args:
        assert made == {args[args.index("-o") + 1]} and bool(out.strip()) == ("--json" in args)
    else:
        assert out.strip() and not made


def test_chat_command_takes_turns(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = [c for c in OWN if " chat " in c]
    monkeypatch.setattr(
        "sys.stdin", io.StringIO('/image sign.jpg\nfirst \\\nline\n/think\n"""\nsecond\n\nturn\n"""\n')
    )
    assert main(shlex.split(line)[1:]) == 0
    out, err = capsys.readouterr()
    assert (
        len(out.splitlines()) >= 2 and "sign.jpg goes with the next turn" in err and "thinking is on" in err
    )


def test_ci_runs_the_commands_of_the_installation() -> None:
    lines = [line.strip() for line in CI.splitlines()]
    for command in COMMANDS[:2]:
        first, second = command.split(" && ")
        at = next(i for i, line in enumerate(lines) if line.startswith(first))
        assert lines[at + 1].startswith(second)


def test_supported_types_are_those_of_the_converter() -> None:
    from gemma4_gguf.files.quant_types import MODEL_TYPES, PROJECTOR_QUANTS

    named = [
        re.findall(r"\b(?:I?Q\d\w*|BF16|F\d\d)\b", row) for row in README.splitlines() if row.startswith("| ")
    ]
    (model,) = [row for row in named if len(row) > 10]
    assert set(model) == set(MODEL_TYPES)
    assert sorted(PROJECTOR_QUANTS) in [sorted(set(row)) for row in named]


def test_exit_codes_are_those_of_the_table() -> None:
    from gemma4_gguf import errors
    from gemma4_gguf.cli.errors import exit_code

    named = {
        "checkpoint": errors.ConfigError(""),
        "hub": errors.HubError(""),
        "output": errors.OutputError(""),
        "GGUF file": errors.PairingError(""),
        "engine": errors.DeviceError(""),
        "media": errors.MediaError(""),
        "messages": errors.MessageError(""),
        "context full": errors.ContextFullError("", n_tokens=1, n_ctx=1),
    }
    text = " ".join(README.split())
    for word, error in named.items():
        assert f"{exit_code(error)} {word}" in text


def test_members_of_the_table_are_those_of_the_tests() -> None:
    import tiny

    table = README[README.index("| member |") : README.index("Base and instruction")].lower()
    for member in tiny.MEMBERS:
        if member in ("e2b", "e4b", "26b", "31b", "12b", "assistant"):
            assert member in table


def test_files_that_contributors_are_sent_to_are_there() -> None:
    text = (ROOT / ".github/CONTRIBUTING.md").read_text("utf-8")
    named = set(re.findall(r"`((?:gemma4_gguf|convert|templates|grammars|tests|\.ci)/[\w./*]*)`", text))
    coming = {name for name in named if name.startswith("gemma4_gguf/server/")}
    assert len(named) > 25 and not [name for name in named - coming if not list(ROOT.glob(name.rstrip("/")))]


def test_the_reading_order_is_the_one_that_is_checked() -> None:
    from test_imports import READING_ORDER

    table = README[README.index("## How it is built") :]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    names = [re.findall(r"[\w.]+", re.sub(r"gemma4_gguf/", "", row)) for row in rows]
    place = {name: i for i, row in enumerate(names) for name in row}
    order = [sorted(stage - {"__main__"}, key=str) for stage in READING_ORDER]
    places = [[place[name] for name in stage] for stage in order if stage]
    assert [max(stage) for stage in places] == sorted(max(stage) for stage in places)
