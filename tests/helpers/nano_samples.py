"""The pictures that come with the trained checkpoint, and what it answers about them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from nano import scenes
from nano.engines import write_clip
from nano.speech import Voices
from PIL import Image as PILImage

import gemma4_gguf
from gemma4_gguf import Box, Image

VOICE = Path(__file__).parents[1] / "data/voice.npz"  # one that was kept from training
NANO = Path(gemma4_gguf.__file__).parent / "nano"
SAMPLES = NANO / "samples"
_BY_NAME: dict[str, list[dict[str, Any]]] = json.loads((SAMPLES / "truth.json").read_text(encoding="utf-8"))
TRUTH = [_BY_NAME[f"scene{i}.png"] for i in range(6)]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 150}
# What transformers 5.23 writes in float32, greedily, asked to detect.
TRANSFORMERS = (
    '[{"box_2d": [109, 24, 380, 290], "label": "red circle"}, '
    '{"box_2d": [561, 195, 771, 395], "label": "green triangle"}]',
    '[{"box_2d": [20, 541, 420, 951], "label": "blue square"}, '
    '{"box_2d": [628, 545, 971, 879], "label": "blue triangle"}]',
    '[{"box_2d": [454, 688, 700, 926], "label": "purple circle"}]',
    '[{"box_2d": [29, 304, 373, 654], "label": "yellow square"}, '
    '{"box_2d": [497, 428, 889, 811], "label": "red square"}]',
    '[{"box_2d": [705, 720, 964, 961], "label": "yellow square"}]',
    '[{"box_2d": [55, 288, 353, 597], "label": "green square"}, '
    '{"box_2d": [542, 414, 793, 664], "label": "red triangle"}]',
)


def scene(number: int) -> Image:
    return Image(SAMPLES / f"scene{number}.png", image_tokens=70)


def overlap(one: list[int], other: list[int]) -> float:
    """Intersection over union of two boxes."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = np.prod(np.clip(high - low, 0, None))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return float(shared / (sum(areas) - shared))


def check_boxes(boxes: list[Box], name: str, labels: set[str] | None = None) -> None:
    """Boxes of a bundled picture, in its pixels, are those of truth.json, or of some labels in it."""
    truth = [one for one in _BY_NAME[name] if labels is None or one["label"] in labels]
    with PILImage.open(SAMPLES / name) as picture:
        width, height = picture.size
    assert sorted(box.label for box in boxes) == sorted(one["label"] for one in truth)
    for box in boxes:
        found = [box.y0 / height, box.x0 / width, box.y1 / height, box.x1 / width]
        same = [one["box_2d"] for one in truth if one["label"] == box.label]
        assert max(overlap([round(1000 * side) for side in found], one) for one in same) > 0.5


def write_talking_clip(folder: Path) -> tuple[Path, scenes.Clip]:
    """A clip in which one shape moves while a voice says stop, and what it shows."""
    shown = scenes.clip(random.Random(4))
    said = Voices.load(VOICE, held_out=True).say(random.Random(2), ["stop"])
    write_clip(folder / "clip.mkv", shown.frames, shown.seconds, said)
    return folder / "clip.mkv", shown
