"""The pictures that come with the trained checkpoint, and what it answers about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import gemma4_gguf
from gemma4_gguf import Image

NANO = Path(gemma4_gguf.__file__).parent / "nano"
SAMPLES = NANO / "samples"
_BY_NAME: dict[str, list[dict[str, Any]]] = json.loads((SAMPLES / "truth.json").read_text(encoding="utf-8"))
TRUTH = [_BY_NAME[f"scene{i}.png"] for i in range(6)]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 150}
# What transformers 5.23 writes in float32, greedily, asked to detect.
TRANSFORMERS = (
    '[{"box_2d": [109, 25, 380, 307], "label": "red circle"}, '
    '{"box_2d": [575, 204, 785, 409], "label": "green triangle"}]',
    '[{"box_2d": [28, 525, 451, 968], "label": "blue square"}, '
    '{"box_2d": [625, 535, 971, 881], "label": "blue triangle"}]',
    '[{"box_2d": [475, 695, 725, 935], "label": "purple circle"}]',
    '[{"box_2d": [29, 292, 375, 652], "label": "yellow square"}, '
    '{"box_2d": [492, 409, 881, 831], "label": "red square"}]',
    '[{"box_2d": [725, 725, 961, 975], "label": "yellow square"}]',
    '[{"box_2d": [42, 295, 357, 595], "label": "green square"}, '
    '{"box_2d": [545, 415, 801, 685], "label": "red triangle"}]',
)


def scene(number: int) -> Image:
    return Image(SAMPLES / f"scene{number}.png", image_tokens=70)


def overlap(one: list[int], other: list[int]) -> float:
    """Intersection over union of two boxes."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = np.prod(np.clip(high - low, 0, None))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return float(shared / (sum(areas) - shared))
