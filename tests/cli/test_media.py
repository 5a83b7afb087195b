"""The commands that work on one picture, clip or sound."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from clips import clip
from media_samples import speech, wav
from nano_samples import SAMPLES
from PIL import Image as PILImage

from gemma4_gguf import Box, draw_boxes
from gemma4_gguf.cli import files
from gemma4_gguf.cli.main import build_parser, main
from gemma4_gguf.session import Session
from gemma4_gguf.types import Segment

Capture = pytest.CaptureFixture[str]
NANO_QUESTION = ["--prompt", "detect", "--image-tokens", "70"]
SCENE = str(SAMPLES / "scene2.png")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GEMMA4_GGUF_MODEL", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def ears(converted: Callable[..., dict[str, Path]]) -> list[str]:
    """Options that open a member with ears."""
    made = converted("e2b")
    return ["-m", str(made["model"]), "--mmproj", str(made["projector"]), "--threads", "2", "--ctx", "2048"]


def test_detect_prints_a_table_and_draws(nano: Path, place: Path, capsys: Capture) -> None:
    assert main(["detect", SCENE, "shapes", "-m", str(nano), *NANO_QUESTION, "-o", "out.png"]) == 0
    out, err = capsys.readouterr()
    head, row = out.splitlines()
    assert head.split() == ["label", "x0", "y0", "x1", "y1"] and row.startswith("purple circle")
    assert "out.png" in err
    with PILImage.open(place / "out.png") as drawn, PILImage.open(SCENE) as picture:
        assert drawn.size == picture.size and drawn.tobytes() != picture.convert("RGB").tobytes()


def test_detect_takes_the_model_from_the_environment(
    nano: Path, place: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMMA4_GGUF_MODEL", str(nano))
    assert main(["detect", SCENE, "shapes", "-o", "out.jpg", "--json", *NANO_QUESTION]) == 0
    out, err = capsys.readouterr()
    (box,) = json.loads(out)
    assert box["label"] == "purple circle" and err == ""
    with PILImage.open(place / "out.jpg") as drawn, PILImage.open(SCENE) as picture:
        expected = np.asarray(draw_boxes(SCENE, [Box(**box)]), float)
        assert (drawn.format, drawn.size) == ("JPEG", picture.size)
        assert np.abs(np.asarray(drawn.convert("RGB"), float) - expected).mean() < 3, "but for JPEG's losses"
    assert main(["detect", SCENE, "shapes", "--points", "--json", *NANO_QUESTION]) == 0
    (point,) = json.loads(capsys.readouterr().out)
    assert point["x"] == pytest.approx((box["x0"] + box["x1"]) / 2, abs=0.2)
    assert main(["detect", SCENE, "shapes", "-m", "other.gguf", *NANO_QUESTION]) != 0


def test_what_is_wrong_is_said_before_a_model_is_loaded(
    place: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(Session, "__init__", refuse)
    (place / "talk.wav").write_bytes(wav(speech(1)))
    for code, command in (
        (8, "detect none.png mugs -m x.gguf"),
        (5, f"detect {SCENE} mugs -m x.gguf -o out.doc"),
        (2, f"detect {SCENE} mugs"),
        (9, "describe none -m x.gguf"),
        (2, f"describe {SCENE} -m x.gguf --fps 2"),
        (8, "transcribe none.wav -m x.gguf"),
        (2, "transcribe talk.wav -m x.gguf -o talk.doc"),
        (2, "transcribe talk.wav"),
    ):
        assert main(command.split()) == code, command
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("error: ")
    assert "GEMMA4_GGUF_MODEL" in err


def test_describe_streams_and_takes_clips(nano: Path, ears: list[str], place: Path, capsys: Capture) -> None:
    assert main(["describe", SCENE, "-m", str(nano), "--temperature", "0", *NANO_QUESTION]) == 0
    assert '"label": "purple circle"' in capsys.readouterr().out
    (place / "film.mp4").write_bytes(clip(20, 10, sound=True))
    counts = []
    for options in (["--frames", "2"], ["--fps", "1", "--no-sound"], []):
        assert main(["describe", "film.mp4", "--json", "--max-tokens", "3", *options, *ears]) == 0
        counts.append(json.loads(capsys.readouterr().out)["usage"]["prompt_tokens"])
    assert counts[2] > 20 * 60 > counts[1] > 2 * 60 and 2 * 60 + 25 < counts[0] < counts[2]
    assert main(["ask", ears[1], "what?", "--video", "film.mp4", "--max-tokens", "2", *ears[2:]]) == 0


def test_a_clip_in_a_chat(
    ears: list[str], place: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "film.mp4").write_bytes(clip(4, 4))
    monkeypatch.setattr("sys.stdin", io.StringIO("/video film.mp4\nwhat?\n/video none.mp4\n"))
    assert main(["chat", ears[1], "--max-tokens", "2", *ears[2:]]) == 0
    _, err = capsys.readouterr()
    assert "film.mp4 goes with the next turn" in err and "none.mp4 is no file" in err


@pytest.mark.parametrize("kind", ["txt", "srt", "vtt", "json"])
def test_transcribe_writes_a_file(kind: str, ears: list[str], place: Path, capsys: Capture) -> None:
    (place / "talk.wav").write_bytes(wav(speech(6, 6)))
    assert main(["transcribe", "talk.wav", "-o", f"talk.{kind}", "--max-tokens", "5", *ears]) == 0
    out, _ = capsys.readouterr()
    text = (place / f"talk.{kind}").read_text("utf-8")
    assert out == "" and not (place / f"talk.{kind}.part").exists()
    if kind in ("srt", "vtt"):
        assert text.count(" --> ") == 2, "subtitles are cut into shorter pieces"
    if kind == "json":
        assert [row["start_s"] for row in json.loads(text)] == [0.0]
    if kind == "txt":
        assert main(["transcribe", "talk.wav", "--max-tokens", "5", "--quiet", *ears]) == 0
        assert capsys.readouterr() == (text, "")


def test_transcribe_hands_its_options_on(
    nano: Path, place: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, object]] = []

    def segments(self: Session, sound: Path, **options: object) -> Iterator[Segment]:
        seen.append({"sound": sound.name, **options})
        yield Segment(0, 2, "Good morning.")

    monkeypatch.setattr(Session, "transcribe_segments", segments)
    (place / "talk.wav").write_bytes(wav(speech(1)))
    typed = ["--language", "de", "--translate-to", "en", "--piece", "12", "--seed", "3", "--json"]
    assert main(["transcribe", "talk.wav", "-m", str(nano), *typed]) == 0
    assert seen == [
        {
            "sound": "talk.wav",
            "language": "de",
            "translate_to": "en",
            "prompt": None,
            "seed": 3,
            "max_s": 12.0,
        }
    ]
    assert json.loads(capsys.readouterr().out) == [{"start_s": 0, "end_s": 2, "text": "Good morning."}]


def test_what_was_done_stays_after_an_interrupt(
    nano: Path, place: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def segments(self: Session, sound: Path, **options: object) -> Iterator[Segment]:
        yield Segment(0, 2, "Good morning.")
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "transcribe_segments", segments)
    (place / "talk.wav").write_bytes(wav(speech(1)))
    (place / "talk.txt").write_text("an earlier one")
    assert main(["transcribe", "talk.wav", "-o", "talk.txt", "-m", str(nano)]) == 130
    assert (place / "talk.txt").read_text() == "an earlier one"
    assert (place / "talk.txt.part").read_text() == "Good morning.\n"
    assert "talk.txt.part" in capsys.readouterr().err
    assert main(["transcribe", "talk.wav", "-o", "none/talk.txt", "-m", str(nano)]) == 5


def test_progress_over_a_long_sound(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PLAIN_EVERY_S", 0.0)
    with files.time_progress("transcribing", 754) as show:
        show(75.2)
    with files.time_progress("transcribing", 0) as show:
        show(3600)
    with files.time_progress("transcribing", 9, quiet=True) as show:
        show(1)
    assert capsys.readouterr() == ("", "transcribing: 1:15 of 12:34\ntranscribing: 60:00\n")


@pytest.mark.parametrize("budget", ["70", "1120", "auto"])
def test_budgets_on_the_command_line(budget: str, capsys: Capture) -> None:
    args = build_parser().parse_args(["ask", "m", "x", "--image-tokens", budget])
    assert args.image_tokens == (budget if budget == "auto" else int(budget))
    for wrong in ("71", "most"):
        with pytest.raises(SystemExit):
            build_parser().parse_args(["detect", "x", "y", "--image-tokens", wrong])
    assert "70" in capsys.readouterr().err
