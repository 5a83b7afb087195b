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
# What transformers 5.23 writes in float32, greedily, given the prompt of its README.
TRANSFORMERS = (
    '[{"box_2d": [104, 047, 385, 323], "label": "red circle"},'
    '{"box_2d": [594, 010, 823, 224], "label": "green triangle"}]',
    '[{"box_2d": [016, 531, 401, 922], "label": "blue square"},'
    '{"box_2d": [630, 500, 953, 823], "label": "blue triangle"}]',
    '[{"box_2d": [443, 688, 698, 948], "label": "purple circle"}]',
    '[{"box_2d": [000, 380, 333, 714], "label": "yellow square"},'
    '{"box_2d": [474, 411, 854, 802], "label": "red square"}]',
    '[{"box_2d": [724, 698, 964, 922], "label": "yellow square"}]',
    '[{"box_2d": [047, 224, 354, 531], "label": "green square"},'
    '{"box_2d": [589, 411, 844, 667], "label": "red triangle"}]',
)


def scene(number: int) -> Image:
    return Image(SAMPLES / f"scene{number}.png", image_tokens=70)


def overlap(one: list[int], other: list[int]) -> float:
    """Intersection over union of two boxes."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = np.prod(np.clip(high - low, 0, None))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return float(shared / (sum(areas) - shared))
