"""Draws the samples that are bundled with the checkpoint: what the demo shows and the doctor asks about.

``PYTHONPATH=tests python -m nano.samples gemma4_gguf/nano/samples --words words.npz`` writes pictures, a
sound in a voice kept from training and ``truth.json``; ``--voice tests/data/voice.npz`` writes such a voice
for tests.
"""

from __future__ import annotations

import argparse
import json
import random
import wave
from pathlib import Path

import numpy as np
from nano.scenes import Scene, printed, scene
from nano.speech import RATE_HZ, Voices
from PIL import Image

SAID = ("three", "five", "stop")
WORD = "radio"
KEPT_VOICE = "adam"
#: Name of the sample -> seed of its picture and number of objects.
SCENES = {"shapes.png": (8, 3), "window.png": (92, 3)}


def draw_scene(seed: int, n_items: int) -> Scene:
    """A scene drawn with Pillow's own font."""
    return scene(random.Random(seed), n_items, extra_fonts=False)


def truth(shown: Scene) -> list[dict[str, object]]:
    """The objects as truth.json lists them."""
    return [{"label": item.label, "box_2d": list(item.box)} for item in shown.items]


def write_samples(folder: Path, voices: Voices) -> None:
    """Writes the samples; those of earlier checkpoints stay.

    Args:
        folder: to write into.
        voices: kept from training.
    """
    listed = json.loads((folder / "truth.json").read_text("utf-8"))
    for name, (seed, n_items) in SCENES.items():
        shown = draw_scene(seed, n_items)
        Image.fromarray(shown.picture).save(folder / name, optimize=True)
        listed[name] = truth(shown)
    picture, _ = printed(random.Random(5), WORD, extra_fonts=False)
    Image.fromarray(picture).save(folder / "word.png", optimize=True)
    voice = next(name for name in voices.by_voice if name.endswith("+" + KEPT_VOICE))
    sound = Voices({voice: voices.by_voice[voice]}).say(random.Random(3), SAID)
    with wave.open(str(folder / "spoken.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(np.round(sound * 32767).astype("<i2").tobytes())
    (folder / "truth.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")


def write_voice(out: Path, voices: Voices) -> None:
    """Writes one of the voices as :meth:`Voices.load` reads it."""
    name = next(name for name in voices.by_voice if name.endswith("+" + KEPT_VOICE))
    sounds = [(word, samples) for word, made in voices.by_voice[name].items() for samples in made]
    ends = np.cumsum([len(samples) for _, samples in sounds])
    flat = np.concatenate([samples for _, samples in sounds])
    words = [word for word, _ in sounds]
    np.savez_compressed(out, samples=flat, ends=ends, words=words, voices=[name] * len(sounds))


def main() -> None:
    """``python -m nano.samples FOLDER --words words.npz``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--words", type=Path, required=True, help="cache of nano.speech")
    parser.add_argument("--voice", type=Path, help="file for one voice")
    options = parser.parse_args()
    voices = Voices.load(options.words, held_out=True)
    write_samples(options.folder, voices)
    if options.voice is not None:
        write_voice(options.voice, voices)


if __name__ == "__main__":
    main()
