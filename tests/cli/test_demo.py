"""The demo: right answers, what it leaves behind, and that its lines of Python give the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nano_samples import SAMPLES, check_boxes
from PIL import Image as PILImage

from gemma4_gguf import Box, Session, demo
from gemma4_gguf.cli import inline
from gemma4_gguf.cli.main import main
from gemma4_gguf.errors import CheckpointError
from gemma4_gguf.types import Reply, ToolCall

ACTS: list[dict[str, Any]] = json.loads((SAMPLES / "demo.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def told(kept: Path) -> dict[str, Any]:
    """What --json says."""
    with pytest.MonkeyPatch.context() as patch:
        said: list[Any] = []
        patch.setattr("gemma4_gguf.cli.output.print_json", said.append)
        assert main(["demo", "--keep", str(kept), "--json"]) == 0
    return json.loads(json.dumps(said[0]))


def test_every_answer_is_the_known_one(told: dict[str, Any]) -> None:
    assert [shown["ability"] for shown in told["shown"]] == [act["ability"] for act in ACTS]
    for act, shown in zip(ACTS, told["shown"], strict=True):
        CHECKS[act["ability"]](act, shown)


def right_boxes(act: dict[str, Any], shown: dict[str, Any]) -> None:
    check_boxes([Box(**box) for box in shown["value"]], act["file"])
    with PILImage.open(shown["drawing"]) as drawing:
        assert drawing.width >= demo.MIN_WIDTH


def known(act: dict[str, Any], shown: dict[str, Any]) -> None:
    assert shown["value"] == act["expected"]


CHECKS: dict[str, Callable[..., None]] = {
    "eyes": right_boxes,
    "ears": known,
    "thought": known,
    "tool": known,
    "typed": known,
}


def test_the_lines_of_python_give_the_same(
    told: dict[str, Any], kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Session(told["model"], device="cpu") as session:
        files = demo.Converted(Path(told["model"]), Path(told["projector"]), (), tuple(ACTS), 0)
        shown = list(demo.perform(session, files))
    code = demo.snippet(shown, str(kept))
    assert len(code.strip().splitlines()) <= 10
    capsys.readouterr()
    exec(compile(code, "snippet", "exec"), {})
    assert capsys.readouterr().out == "".join(f"{one.value}\n" for one in shown)


def test_what_is_printed_and_what_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["demo"]) == 0
    out, err = capsys.readouterr()
    for said in (
        "green button Buy",
        "red star",
        "3 5 stop",
        "Sum: 85.",
        "get_weather(city='Oslo')",
        "age=31",
    ):
        assert said in out
    assert re.search(r"\d\.\d s", out)
    assert "converted" in err and "The same in Python" in err and "with Session(" in err
    [folder] = tmp_path.iterdir()
    assert [path.name for path in folder.iterdir()] == ["shapes-boxes.png"]


def test_a_demo_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("gemma4_gguf.demo.perform", fail)
    assert main(["demo"]) == 130
    assert not list(tmp_path.iterdir())


class Scripted:
    """A session with eyes, ears and hands that says what it should."""

    def detect(self, *_: Any, **__: Any) -> list[Box]:
        return [Box("mug", 1, 2, 3, 4)]

    def transcribe(self, *_: Any) -> str:
        return "3 5 stop"

    def ask(self, *_: Any, **__: Any) -> Reply:
        return Reply("85", thinking="7 + 8 = 15\n4 + 3 + 1 = 8")

    def extract(self, kind: Any, *_: Any, **__: Any) -> Any:
        return kind(name="Anna", age=31)

    def chat(self, *, tools: list[Any]) -> Scripted:
        assert tools == [demo.get_weather]
        return self

    def run(self, *_: Any, on_result: Callable[..., None], **__: Any) -> Reply:
        call = ToolCall("call_0", "get_weather", {"city": "Oslo"})
        on_result(call, type("Result", (), {"content": demo.get_weather("Oslo")}))
        return Reply("It is 12 C in Oslo.")


def test_every_ability_can_be_shown(tmp_path: Path) -> None:
    """Also those that the bundled checkpoint has not learned."""
    (tmp_path / "a.png").write_bytes((SAMPLES / "scene1.png").read_bytes())
    acts = (
        {"ability": "eyes", "file": "a.png", "what": "mugs"},
        {"ability": "ears", "file": "a.wav"},
        {"ability": "thought", "question": "What is 47 + 38?"},
        {"ability": "tool", "question": "What is the weather in Oslo?"},
        {"ability": "typed", "question": "Anna is 31."},
    )
    files = demo.Converted(tmp_path / "m.gguf", tmp_path / "p.gguf", (), acts, 0)
    shown = list(demo.perform(Scripted(), files))  # type: ignore[arg-type]
    assert [one.lines for one in shown] == [
        ("mug  x 1 to 3, y 2 to 4",),
        ("3 5 stop",),
        ("(7 + 8 = 15 4 + 3 + 1 = 8)", "85"),
        ("get_weather(city='Oslo') gave 12 C, sun", "It is 12 C in Oslo."),
        ("Person(name='Anna', age=31)",),
    ]
    code = demo.snippet(shown, "DIR")
    compile(code, "snippet", "exec")
    assert "from gemma4_gguf.demo import Person, get_weather" in code
    assert [demo.as_json(one.value) for one in shown[-1:]] == [{"name": "Anna", "age": 31}]
    unknown = demo.Converted(files.model, files.projector, (), ({"ability": "smell"},), 0)
    with pytest.raises(CheckpointError, match="smell"):
        list(demo.perform(Scripted(), unknown))  # type: ignore[arg-type]


# Pictures in the terminal


class Screen:
    def __init__(self, color_system: str | None, is_terminal: bool = True) -> None:
        self.color_system, self.is_terminal, self.width = color_system, is_terminal, 40
        self.lines: list[Any] = []

    def print(self, line: Any) -> None:
        self.lines.append(line)


@pytest.mark.parametrize(
    ("variables", "starts"),
    [
        ({"TERM": "xterm-kitty"}, "\033_Ga=T,f=100,m="),
        ({"TERM_PROGRAM": "iTerm.app"}, "\033]1337;File=inline=1;size="),
    ],
)
def test_a_terminal_that_shows_pictures_gets_one(
    variables: dict[str, str],
    starts: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("TERM", "TERM_PROGRAM", "TMUX", "KITTY_WINDOW_ID", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(inline, "screen", lambda **_: Screen("truecolor"))
    assert inline.show_picture(SAMPLES / "scene1.png")
    err = capsys.readouterr().err
    assert err.startswith(starts)
    monkeypatch.setenv("TMUX", "1")
    monkeypatch.setattr(inline, "screen", lambda **_: Screen("256"))
    assert not inline.show_picture(SAMPLES / "scene1.png")
    assert capsys.readouterr().err == ""


def test_other_terminals_get_half_blocks_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TERM", "TERM_PROGRAM", "KITTY_WINDOW_ID", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    colourful = Screen("truecolor")
    monkeypatch.setattr(inline, "screen", lambda **_: colourful)
    assert inline.show_picture(SAMPLES / "scene1.png", indent=4)
    assert len(colourful.lines) == 18 and {len(line.plain) for line in colourful.lines} == {40}
    monkeypatch.setattr(inline, "screen", lambda **_: Screen(None, is_terminal=False))
    assert not inline.show_picture(SAMPLES / "scene1.png")
    picture = PILImage.new("RGB", (2, 2), (255, 0, 0))
    [line] = inline.half_blocks(picture, 2)
    assert line.plain == "▀▀" and "#ff0000" in str(line.spans[0].style)
