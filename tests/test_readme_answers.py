"""Every Python example of the README, retold in the words that the bundled checkpoint knows, answers right.

tests/test_readme.py runs the examples as they are written, on random weights.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nano_samples import NANO, SAMPLES, check_boxes, write_talking_clip
from PIL import Image as PILImage
from test_readme import MODEL, blocks, run_block

from gemma4_gguf import Session

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

    def greedy(self: Session, *messages: Any, sampling: Any, **options: Any) -> Any:
        return generate(self, *messages, sampling=replace(sampling, temperature=0), **options)

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
    assert (place / "street-found.png").exists() or (place / "street-boxes.png").exists()


CHECKS: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "traffic lights": right_boxes,
    "session.complete(": right_boxes,
}
