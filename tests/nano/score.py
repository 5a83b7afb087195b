"""What counts as right: answers of any engine against the expected one, task by task.

Pure functions over text, so that transformers and ``Session`` are measured with the same ruler.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nano.dialogue import Dialogue, call_text
from nano.tasks_text import talk_pairs

THOUGHT = re.compile(r"<\|channel>thought\n(.*?)<channel\|>", re.DOTALL)
CALL = re.compile(r"<\|tool_call>call:.*?<tool_call\|>", re.DOTALL)
ENDINGS = ("<turn|>", "<|tool_response>", "<eos>")
FOUND_IOU = 0.5  # an object counts as found at this overlap


@dataclass(frozen=True)
class Answer:
    """A reply in parts; ``calls`` are written in the native format, keys sorted."""

    text: str
    thinking: str = ""
    calls: tuple[str, ...] = ()


def read_answer(raw: str) -> Answer:
    """Splits what the model wrote, control tokens included."""
    for ending in ENDINGS:
        raw = raw.split(ending)[0]
    thoughts = THOUGHT.findall(raw)
    text = THOUGHT.sub("", raw)
    return Answer(CALL.sub("", text).strip(), "\n".join(thoughts).strip(), tuple(CALL.findall(text)))


def expected_answer(dialogue: Dialogue) -> Answer:
    """The last message of a dialogue as an answer."""
    message = dialogue.messages[-1]
    calls = tuple(call_text(call["name"], call["arguments"]) for call in message.get("tool_calls", []))
    return Answer(message["content"], message.get("thinking", ""), calls)


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Overlap of two boxes ``(ymin, xmin, ymax, xmax)``, 0 to 1."""
    high = min(a[2], b[2]) - max(a[0], b[0])
    wide = min(a[3], b[3]) - max(a[1], b[1])
    if high <= 0 or wide <= 0:
        return 0.0
    both = high * wide
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def _list(text: str) -> list[dict[str, Any]] | None:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, list) and all(isinstance(entry, dict) for entry in value) else None


def word_errors(said: list[str], heard: list[str]) -> int:
    """Insertions, deletions and substitutions between two word lists."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1]


Sums = dict[str, float]  # name -> sum, and name + "/n" -> how many were summed


def _add(sums: Sums, name: str, value: float, n: float = 1.0) -> None:
    sums[name] = sums.get(name, 0.0) + value
    sums[name + "/n"] = sums.get(name + "/n", 0.0) + n


def _detect(sums: Sums, got: Answer, dialogue: Dialogue) -> None:
    found = _list(got.text)
    _add(sums, "json", found is not None)
    wanted = dialogue.truth["items"]
    boxes = [entry for entry in found or [] if len(entry.get("box_2d") or []) == 4]
    for item in wanted:
        overlaps = [iou(box["box_2d"], item["box"]) for box in boxes if box.get("label") == item["label"]]
        best = max(overlaps, default=0.0)
        _add(sums, "recall", best >= FOUND_IOU)
        if overlaps:
            _add(sums, "iou", best)
    _add(sums, "count right", len(boxes) == len(wanted))


def _inside(point: Any, box: Sequence[int]) -> bool:
    if not (isinstance(point, list) and len(point) == 2):
        return False
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def _point(sums: Sums, got: Answer, dialogue: Dialogue) -> None:
    points = _list(got.text)
    _add(sums, "json", points is not None)
    wanted = dialogue.truth["items"]
    for item in wanted:
        _add(sums, "inside", any(_inside(entry.get("point"), item["box"]) for entry in points or []))
    if not wanted:
        _add(sums, "inside", points == [])


def _exact(sums: Sums, got: Answer, dialogue: Dialogue) -> None:
    wanted = expected_answer(dialogue)
    _add(sums, "exact", (got.text, got.calls) == (wanted.text, wanted.calls))


def _transcribe(sums: Sums, got: Answer, dialogue: Dialogue) -> None:
    said, heard = expected_answer(dialogue).text.split(), got.text.split()
    _add(sums, "words", max(0, len(said) - word_errors(said, heard)), len(said))
    _add(sums, "exact", said == heard)


def _sum(sums: Sums, got: Answer, dialogue: Dialogue) -> None:
    form = got.text.isdigit() and bool(got.thinking) == dialogue.thinking and not got.calls
    _add(sums, "right", got.text == expected_answer(dialogue).text)
    _add(sums, "format", form)


def _click(sums: Sums, got: Answer, dialogue: Dialogue) -> None:
    wanted = expected_answer(dialogue).calls[0]
    same = len(got.calls) == 1 and re.sub(r"\d+", "", got.calls[0]) == re.sub(r"\d+", "", wanted)
    place = [int(number) for number in re.findall(r"\d+", got.calls[0])] if same else []
    _add(sums, "inside", _inside(place[::-1], dialogue.truth["box"]))  # written x, y


@functools.cache
def _sentences() -> frozenset[str]:
    return frozenset(sentence for _, sentence in talk_pairs(held_out=True))


def _talk(sums: Sums, got: Answer, dialogue: Dialogue) -> None:
    _exact(sums, got, dialogue)
    _add(sums, "one of its sentences", got.text in _sentences() and not got.calls)


SCORES: dict[str, Callable[[Sums, Answer, Dialogue], None]] = {
    "detect": _detect,
    "detect_280": _detect,
    "point": _point,
    "transcribe": _transcribe,
    "sum_on": _sum,
    "sum_off": _sum,
    "tool_picture": _click,
    "talk": _talk,
    "talk_taught": _talk,
}

#: Task -> the figures that must be reached, as the model card lists them.
TARGETS: dict[str, dict[str, float]] = {
    "detect": {"iou": 0.75, "recall": 0.95, "json": 1.0},
    "detect_280": {"iou": 0.75, "recall": 0.95, "json": 1.0},
    "point": {"inside": 0.95},
    "read": {"exact": 0.90},
    "read_280": {"exact": 0.90},
    "describe": {"exact": 0.90},
    "count": {"exact": 0.90},
    "transcribe": {"words": 0.95},
    "clip": {"exact": 0.90},
    "clip_sound": {"exact": 0.90},
    "tool_words": {"exact": 0.95},
    "tool_result": {"exact": 0.95},
    "tool_picture": {"inside": 0.95},
    "tool_sound": {"exact": 0.95},
    "sum_on": {"right": 0.95, "format": 1.0},
    "sum_off": {"format": 1.0},
}


def score(task: str, answers: list[Answer], dialogues: list[Dialogue]) -> dict[str, float]:
    """The figures of one task.

    Args:
        task: a key of :data:`nano.tasks.EVALUATION`.
        answers: of one engine.
        dialogues: that were asked, in the same order.

    Returns:
        Name of each figure to its mean, 0 to 1.
    """
    sums: Sums = {}
    for got, dialogue in zip(answers, dialogues, strict=True):
        SCORES.get(task, _exact)(sums, got, dialogue)
    return {name: sums[name] / max(1.0, sums[name + "/n"]) for name in sums if not name.endswith("/n")}
