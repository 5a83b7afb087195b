"""Every example of the README, retold in the words that the bundled checkpoint knows, answers right.

tests/test_readme.py runs the examples as they are written, on random weights.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nano_samples import NANO, SAMPLES, check_boxes, write_talking_clip
from PIL import Image as PILImage
from readme import MODEL, OWN, blocks, run_block

from gemma4_gguf import Box, Session
from gemma4_gguf.cli.main import main
from gemma4_gguf.generation import Turn

#: A line of the example -> (what it says -> what the small model is asked, what it must print).
RETOLD: dict[str, tuple[dict[str, str], str]] = {
    "convert_checkpoint(": ({}, r"models/my-finetune-Q8_0\.gguf\nmodels/mmproj-my-finetune-BF16\.gguf\n"),
    "What does the sign say?": (
        {"What does the sign say?": "What does it say?", "image_tokens=560": "image_tokens=70"},
        r"radio\n\d+ tokens read, \d+ written\n",
    ),
    "traffic lights": (
        {
            '"cars", "traffic lights"': '"red triangle", "red star"',
            "the door of the nearest car": "the green button",
        },
        r"red triangle [\d. ]+\nred star [\d. ]+\n",
    ),
    "class Receipt": (
        {
            'Path("receipt.jpg"), "Read this receipt."': '"Extract the name, age and city as JSON: '
            'Anna is 31 years old and lives in Rome."',
            "shop: str": "name: str",
            "total: float": "age: int",
            "paid_by_card: bool": "city: str",
            "receipt.shop, receipt.total": "receipt.name, receipt.age",
            "How does this sound? Fine, thanks.": "What is 47 + 38?",
            '["friendly", "neutral", "angry"]': '["84", "85", "95"]',
        },
        r"Anna 31 85\n",
    ),
    "Who wrote Faust?": (
        {"Who wrote Faust?": "My name is Anna.", "When was that?": "What is my name?"},
        r".*\nYour name is Anna\.\n",
    ),
    "session.stream(": (
        {"Do I need an umbrella in Lisbon?": "What is the weather in Lisbon?"},
        r"I call get_weather\.\s*get_weather \{'place': 'Lisbon'\}\n",
    ),
    "chat.run(": (
        {
            "Do I need an umbrella in Lisbon?": "What is the weather in Lisbon?",
            '{"place": place, "days": days, "sky": "rain"}': '"12 C, rain"',
        },
        r".*Lisbon: 12 C, rain\.\n",
    ),
    "AsyncSession(": (
        {
            "What is rye?": "Hello!",
            "And what is spelt?": "My name is Anna.",
            "Which is older?": "What is my name?",
        },
        r"Hello!.*\n.*Anna.*\nYour name is Anna\.",
    ),
    "session.transcribe(": (
        {', language="de", translate_to="en"': ""},
        r"3 5 stop\n0\.\d s: 3 5 stop\n",
    ),
    "session.describe(": (
        {"When does somebody jump?": "What moves?", "fps=1, frames=8": "frames=3"},
        r"The orange triangle moves to the left\. The voice says stop\.\n"
        r"The orange triangle moves to the left\. The voice says stop\.\n",
    ),
    "session.complete(": (
        {
            '{"role": "system", "content": "Answer with JSON."},': "",
            "Detect every car, as a list of box_2d and label.": "Detect all objects. Answer with a JSON "
            "list of box_2d and label.",
        },
        "",
    ),
}


@pytest.fixture
def place(nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with what the README names, of a kind that the small model knows."""
    (tmp_path / "models").mkdir()
    projector = next(nano.parent.glob("mmproj-*.gguf"))
    shutil.copyfile(nano, tmp_path / "models" / MODEL)
    shutil.copyfile(projector, tmp_path / "models/mmproj-gemma-4-E2B-it-BF16.gguf")
    shutil.copytree(NANO, tmp_path / "checkpoints/my-finetune")
    PILImage.open(SAMPLES / "word.png").convert("RGB").save(tmp_path / "sign.jpg", quality=95)
    shutil.copyfile(SAMPLES / "shapes.png", tmp_path / "street.png")
    for name in ("voice.wav", "talk.mp3"):  # what it is decides, not what it is called
        shutil.copyfile(SAMPLES / "spoken.wav", tmp_path / name)
    clip, _ = write_talking_clip(tmp_path)
    clip.rename(tmp_path / "holiday.mp4")
    generate = Session.generate

    def greedy(self: Session, turn: Turn, **options: Any) -> Any:
        return generate(self, replace(turn, sampling=replace(turn.sampling, temperature=0)), **options)

    monkeypatch.setattr(Session, "generate", greedy)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def example(line: str) -> str:
    """The example with a line in it."""
    (found,) = [block for block in blocks("python") if line in block]
    return found


def test_every_example_is_retold() -> None:
    assert sorted(example(line) for line in RETOLD) == sorted(blocks("python"))


@pytest.mark.parametrize("line", RETOLD)
def test_answers_are_right(line: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, (words, expected) = example(line), RETOLD[line]
    for said, instead in words.items():
        assert said in text
        text = text.replace(said, instead)
    scope = run_block(text)
    assert re.fullmatch(expected, capsys.readouterr().out, re.S)
    check = CHECKS.get(line)
    if check is not None:
        check(scope, place)


def right_boxes(scope: dict[str, Any], place: Path) -> None:
    asked = {"red triangle", "red star"} if "places" in scope else None
    check_boxes(scope["boxes"], "shapes.png", asked)
    assert (place / ("street-found.png" if "places" in scope else "street-boxes.png")).is_file()


CHECKS: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "traffic lights": right_boxes,
    "session.complete(": right_boxes,
}


#: Part of a command -> (what it says -> what the small model is asked, what it must print).
COMMANDS: dict[str, tuple[dict[str, str], str]] = {
    "convert checkpoints/my-finetune": (
        {},
        r".*models/my-finetune-Q5_K_M\.gguf.*mmproj-my-finetune-F16\.gguf.*",
    ),
    " inspect ": ({}, r"name +Nano\n.*Q4_K_M.*\n"),
    '"What does the sign say?"': ({"What does the sign say?": "What does it say?", "560": "70"}, r"radio\n"),
    " detect ": (
        {'"cars"': '"all objects"', "--json": "--json --image-tokens 70"},
        r"\[.*\]\n",
    ),
    "receipt.json": (
        {
            "Read this receipt.": "Extract the name and age as JSON: Anna is 31 years old.",
            "--image receipt.jpg": "",
        },
        r'\{"name": "Anna", "age": 31\}\n',
    ),
    " chat ": ({}, r".*\nYour name is Anna\.\n"),
    "-o talk.srt": ({}, ""),
    "--language de": ({"--language de --translate-to en": ""}, r"3 5 stop\n"),
    "Who is speaking": ({"Who is speaking, and in what mood?": "What is said?"}, r"3 5 stop\n"),
    " describe ": ({}, r"The orange triangle moves to the left\. The voice says stop\.\n"),
}
# In test_hub, test_demo, test_doctor, test_cli and test_models.
ELSEWHERE = ("convert google/", " demo", " doctor", " devices", " pull ", " config model ")


def command(part: str) -> str:
    """The command with a part in it."""
    (found,) = [line for line in OWN if part in line]
    return found


def test_every_command_is_retold() -> None:
    elsewhere = [line for line in OWN if any(part in line for part in ELSEWHERE)]
    assert sorted([*map(command, COMMANDS), *elsewhere]) == sorted(OWN)


@pytest.mark.parametrize("part", COMMANDS)
def test_commands_answer_right(
    part: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line, (words, expected) = command(part), COMMANDS[part]
    for said, instead in words.items():
        assert said in line
        line = line.replace(said, instead)
    properties = {"name": {"type": "string"}, "age": {"type": "integer"}}
    (place / "receipt.json").write_text(json.dumps({"type": "object", "properties": properties}))
    monkeypatch.setattr("sys.stdin", io.StringIO("My name is Anna.\nWhat is my name?\n"))
    assert main(shlex.split(line)[1:]) == 0
    out = capsys.readouterr().out
    assert re.fullmatch(expected, out, re.S)
    if part == " detect ":
        check_boxes([Box(**entry) for entry in json.loads(out)], "shapes.png")
        assert (place / "street-boxes.png").exists()
    if part == "-o talk.srt":
        assert "3 5 stop" in (place / "talk.srt").read_text("utf-8")
    if part == "convert checkpoints/my-finetune":
        with Session(place / "models/my-finetune-Q5_K_M.gguf") as session:
            assert session.ask("What is 47 + 38?", thinking=True, temperature=0).text == "85"
