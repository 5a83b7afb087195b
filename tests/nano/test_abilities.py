"""What the bundled checkpoint masters, through our own Q4_K_M conversion: a wrong stack answers wrong.

Fresh samples of every task on its model card, and every public way to ask about the bundled samples.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nano.engines import Through
from nano.score import score
from nano.speech import Voices
from nano.tasks import evaluation_set
from nano_samples import SAMPLES, VOICE, check_boxes, write_talking_clip
from PIL import Image as PILImage
from pydantic import BaseModel

from gemma4_gguf import Audio, Image, Session, Video
from gemma4_gguf.demo import Person, get_weather
from gemma4_gguf.grammars import load

TRUTH: dict[str, list[dict[str, Any]]] = json.loads((SAMPLES / "truth.json").read_text("utf-8"))
EXACT: dict[str, Any] = {"temperature": 0, "max_tokens": 200}
N_SAMPLES = 12
N_SLOW = 6  # of tasks that take most of the time; a wrong stack answers none of them
SLOW = ("detect_280", "read_280", "clip", "clip_sound")
SEED = 41
#: Task -> what the model card's figures make all but certain on so few samples.
LEAST: dict[str, dict[str, float]] = {
    "detect": {"json": 1.0, "iou": 0.7, "recall": 0.8},
    "detect_280": {"json": 1.0, "iou": 0.7, "recall": 0.8},
    "point": {"inside": 0.8},
    "read": {"exact": 0.75},
    "read_280": {"exact": 0.6},
    "describe": {"exact": 0.7},
    "count": {"exact": 0.8},
    "transcribe": {"words": 0.9},
    "clip": {"exact": 0.6},
    "clip_sound": {"exact": 0.6},
    "tool_words": {"exact": 0.8},
    "tool_result": {"exact": 0.8},
    "tool_picture": {"inside": 0.75},
    "tool_sound": {"exact": 0.8},
    "sum_on": {"right": 0.9, "format": 1.0},
    "sum_off": {"format": 1.0},
    "memory": {"exact": 0.8},
    "extract": {"exact": 0.8},
}


@pytest.fixture(scope="module")
def wide(nano: Path) -> Iterator[Session]:
    with Session(nano, device="cpu", n_ctx=2048, n_threads=2) as opened:
        yield opened


@pytest.fixture(scope="module")
def voices() -> Voices:
    return Voices.load(VOICE, held_out=True)


@pytest.mark.parametrize("task", LEAST)
def test_fresh_samples_of_a_task(task: str, wide: Session, voices: Voices, tmp_path: Path) -> None:
    dialogues = evaluation_set(task, N_SLOW if task in SLOW else N_SAMPLES, SEED, voices)
    figures = score(task, Through(wide, tmp_path).answers(dialogues), dialogues)
    assert {name: figures[name] for name, least in LEAST[task].items() if figures[name] < least} == {}


# Every way to ask


def test_ask_with_a_thought_and_without(wide: Session) -> None:
    reply = wide.ask("What is 47 + 38?", thinking=True, **EXACT)
    assert reply.text == "85" and reply.thinking and "7 + 8" in reply.thinking
    assert wide.ask("Repeat: coffee", **EXACT).text == "coffee"
    assert wide.ask("What is 47 + 38?", **EXACT).thinking is None


def test_stream(wide: Session) -> None:
    kinds: dict[str, str] = {}
    for chunk in wide.stream("What is 12 + 35?", thinking=True, **EXACT):
        kinds[chunk.kind] = kinds.get(chunk.kind, "") + chunk.text
    assert kinds["text"] == "47" and "2 + 5" in kinds["thinking"] and list(kinds)[-1] == "end"


def test_chat_remembers_and_forks(wide: Session) -> None:
    chat = wide.chat()
    chat.send("My name is Anna.", **EXACT)
    other = chat.fork()
    assert "Anna" in chat.send("What is my name?", **EXACT).text
    assert "Anna" in other.send("Who am I?", **EXACT).text


def test_extract_and_schema(wide: Session) -> None:
    sentence = "Extract the name and age as JSON: Anna is 31 years old."
    assert wide.extract(Person, sentence) == Person(name="Anna", age=31)

    class Order(BaseModel):
        item: str
        amount: int

    order = wide.extract(Order, "Extract the item and amount as JSON: 3 apples, please.")
    assert order == Order(item="apples", amount=3)
    picture = Image(SAMPLES / "shapes.png", image_tokens=70)
    colour = wide.ask(picture, "What colour is the star?", schema=["red", "green", "blue"], temperature=0)
    assert colour.parsed == "red"


def test_tools(wide: Session) -> None:
    asked: list[dict[str, Any]] = []

    def told(call: Any, result: Any) -> None:
        asked.append(dict(call.arguments))

    reply = wide.chat(tools=[get_weather]).run("What is the weather in Oslo?", on_result=told, **EXACT)
    assert asked == [{"city": "Oslo"}] and get_weather("Oslo") in reply.text
    reply = wide.ask("Weather in Rome?", tools=[get_weather], **EXACT)
    assert [(call.name, dict(call.arguments)) for call in reply.tool_calls] == [
        ("get_weather", {"city": "Rome"})
    ]


@pytest.mark.parametrize("name", ["shapes.png", "window.png"])
@pytest.mark.parametrize("budget", [70, 280])
def test_detect_and_point(name: str, budget: Any, wide: Session) -> None:
    with PILImage.open(SAMPLES / name) as picture:
        width, height = picture.size
    check_boxes(wide.detect(SAMPLES / name, image_tokens=budget), name)
    target = TRUTH[name][0]
    colour, kind = target["label"].split()[:2]
    (point,) = wide.point(SAMPLES / name, f"the {colour} {kind}", image_tokens=budget)
    top, left, bottom, right = target["box_2d"]
    assert left <= 1000 * point.x / width <= right and top <= 1000 * point.y / height <= bottom


def test_a_grammar_leaves_the_model_its_own_tokens(wide: Session) -> None:
    """Text that the grammar forces comes in the tokens that the model would write, not letter by letter."""
    asked = (Image(SAMPLES / "shapes.png", image_tokens=70), "Detect all objects.")
    free = wide.ask(*asked, **EXACT)
    bound = wide.ask(*asked, schema=load("boxes"), **EXACT)
    assert bound.text == free.text and bound.usage.completion_tokens == free.usage.completion_tokens


def test_describe_and_read(wide: Session) -> None:
    picture = Image(SAMPLES / "shapes.png", image_tokens=70)
    text = wide.describe(picture, **EXACT).text
    assert text == "A green button that says Buy, a red triangle and a red star."
    assert wide.ask(picture, "How many objects are there?", **EXACT).text == "3"
    word = Image(SAMPLES / "word.png", image_tokens=70)
    assert wide.ask(word, "What does it say?", **EXACT).text == "radio"
    content = [
        {"type": "image_url", "image_url": {"url": str(SAMPLES / "word.png"), "detail": "low"}},
        {"type": "text", "text": "Read the text."},
    ]
    assert wide.complete([{"role": "user", "content": content}], **EXACT).text == "radio"


def test_transcribe(wide: Session) -> None:
    sound = SAMPLES / "spoken.wav"
    assert wide.transcribe(sound) == "3 5 stop"
    (segment,) = wide.transcribe_segments(sound)
    assert segment.text == "3 5 stop" and 0 <= segment.start_s < segment.end_s < 3
    assert wide.ask(Audio(sound), "What does the voice say?", **EXACT).text == "3 5 stop"


def test_clips(wide: Session, tmp_path: Path) -> None:
    file, shown = write_talking_clip(tmp_path)
    clip = Video(file, frames=len(shown.frames))
    text = wide.describe(clip, **EXACT).text
    assert shown.moved in text and shown.direction in text and "stop" in text
