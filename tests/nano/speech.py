"""Spoken words: rendered once by espeak-ng in many voices, then mixed, bent and covered with noise.

``python -m nano.speech --out words.npz`` writes the cache that training and evaluation read (about 40 MB).
Voices of :data:`HELD_OUT` appear in the evaluation only. espeak-ng is a Debian package (GPL-3.0 program; its
output is not covered by that licence).
"""

from __future__ import annotations

import argparse
import io
import random
import subprocess
import wave
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nano.words import SPOKEN, words_of

RATE_HZ = 16_000
BLOCK = 128  # samples
DIALECTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-us-nyc")
TRAINING = words_of(
    """
    m1 m2 m3 m4 m5 m6 m7 f1 f2 f3 f4 Alex Andrea Andy Annie Denis Diogo Gene Henrique Hugo Jacky Lee Marco
    Mario Mike Nguyen anika antonio aunty belinda benjamin boris caleb david ed edward grandma iven john linda
    marcelo michel miguel pablo paul pedro quincy rob robert sandro shelby steph travis victor zac
    """
)
HELD_OUT = ("m8", "f5", "Alicia", "Michael", "adam", "gustave", "max", "norbert", "steph2", "iven3")
SETTINGS = ((150, 50), (185, 38), (125, 62))  # words per minute, pitch 0-99


def resample(samples: np.ndarray, rate_in: float, rate_out: float) -> np.ndarray:
    """Band-limited resampling of a short sound through its spectrum.

    Returns:
        float32 ``[round(n * rate_out / rate_in)]``.
    """
    n_in = len(samples)
    n_out = round(n_in * rate_out / rate_in)
    spectrum = np.fft.rfft(samples)
    kept = np.zeros(n_out // 2 + 1, dtype=spectrum.dtype)
    n = min(len(kept), len(spectrum))
    kept[:n] = spectrum[:n]
    return (np.fft.irfft(kept, n_out) * (n_out / n_in)).astype(np.float32)


def whole_blocks(samples: np.ndarray) -> np.ndarray:
    """Silence behind a sound up to a multiple of BLOCK, whose Fourier transforms are quick."""
    return np.pad(samples, (0, -len(samples) % BLOCK))


def synthesize(word: str, voice: str, speed: int, pitch: int) -> np.ndarray:
    """One word by espeak-ng, silence trimmed.

    Returns:
        float32 ``[samples]`` at 16 kHz, peak about 0.9.
    """
    command = ["espeak-ng", "--stdout", "-v", voice, "-s", str(speed), "-p", str(pitch), word]
    done = subprocess.run(command, capture_output=True, check=True)
    with wave.open(io.BytesIO(done.stdout)) as file:
        rate = file.getframerate()
        raw = done.stdout[44:]  # the header of a piped WAV does not know its length
    samples = np.frombuffer(raw[: len(raw) // 2 * 2], dtype="<i2").astype(np.float32) / 32768.0
    samples = resample(samples, rate, RATE_HZ)
    loud = np.flatnonzero(np.abs(samples) > 0.015)
    if len(loud) == 0:
        raise RuntimeError(f"espeak-ng voice {voice} says nothing for {word!r}")
    samples = samples[max(0, loud[0] - 320) : loud[-1] + 320]
    return samples * (0.9 / np.abs(samples).max())


def build(out: Path, seed: int = 11, per_voice: int = 1) -> None:
    """Renders every word in every voice and writes the cache.

    Args:
        out: the ``.npz`` to write.
        seed: chooses dialect, speed and pitch of each voice.
        per_voice: renderings of each word by each voice.
    """
    rng = random.Random(seed)
    jobs = []
    for variant in (*TRAINING, *HELD_OUT):
        for _ in range(per_voice):
            dialect = rng.choice(DIALECTS)
            speed, pitch = rng.choice(SETTINGS)
            for word in SPOKEN:
                jobs.append(
                    (word, f"{dialect}+{variant}", speed + rng.randint(-12, 12), pitch + rng.randint(-8, 8))
                )
    with ThreadPoolExecutor(4) as pool:
        sounds = list(pool.map(lambda job: synthesize(*job), jobs))
    flat = np.concatenate([np.round(sound * 32767).astype(np.int16) for sound in sounds])
    ends = np.cumsum([len(sound) for sound in sounds])
    np.savez_compressed(
        out, samples=flat, ends=ends, words=[job[0] for job in jobs], voices=[job[1] for job in jobs]
    )


@dataclass
class Voices:
    """The rendered words: ``by_voice[voice][word]`` is a list of int16 arrays."""

    by_voice: dict[str, dict[str, list[np.ndarray]]]

    @classmethod
    def load(cls, path: Path, held_out: bool) -> Voices:
        """Reads the training voices, or those kept for the evaluation."""
        with np.load(path) as data:
            samples, ends = data["samples"], data["ends"]
            names, voices = data["words"].tolist(), data["voices"].tolist()
        by_voice: dict[str, dict[str, list[np.ndarray]]] = {}
        begin = 0
        for end, word, voice in zip(ends.tolist(), names, voices, strict=True):
            if (voice.split("+")[1] in HELD_OUT) == held_out:
                by_voice.setdefault(voice, {}).setdefault(word, []).append(samples[begin:end])
            begin = end
        return cls(by_voice)

    def say(self, rng: random.Random, words: Sequence[str]) -> np.ndarray:
        """The words in one voice with pauses between, bent, coloured and under noise.

        Returns:
            float32 ``[samples]`` at 16 kHz in [-1, 1]; noise alone when ``words`` is empty.
        """
        return self.say_where(rng, words)[0]

    def say_where(self, rng: random.Random, words: Sequence[str]) -> tuple[np.ndarray, list[tuple[int, int]]]:
        """As :meth:`say`, and the first and last sample of every word."""
        generator = np.random.default_rng(rng.getrandbits(32))
        voice = self.by_voice[rng.choice(sorted(self.by_voice))]
        pieces = [np.zeros(rng.randint(800, 6400), np.float32)]
        spans = []
        for word in words:
            piece = whole_blocks(rng.choice(voice[word]).astype(np.float32) / 32768.0)
            n_blocks = len(piece) // BLOCK
            bent = round(n_blocks / rng.uniform(0.88, 1.14))  # faster is also higher
            begin = sum(map(len, pieces))
            pieces.append(resample(piece, n_blocks, bent))
            spans.append((begin, begin + len(pieces[-1])))
            pieces.append(np.zeros(rng.randint(1600, 5600), np.float32))
        if not words:
            pieces.append(np.zeros(rng.randint(6400, 24000), np.float32))
        sound = whole_blocks(np.concatenate(pieces))
        spectrum = np.fft.rfft(sound)
        tilt = np.interp(
            np.linspace(0, 1, len(spectrum)), np.linspace(0, 1, 6), generator.uniform(0.5, 1.4, 6)
        )
        sound = np.fft.irfft(spectrum * tilt, len(sound)).astype(np.float32)
        hiss = generator.standard_normal(len(sound)).astype(np.float32)
        if rng.random() < 0.5:  # a duller noise
            hiss = np.convolve(hiss, np.full(8, 0.35, np.float32), mode="same")
        level = 10 ** (-rng.uniform(12, 45) / 20) * 0.2  # 12-45 dB below the voice
        sound = (sound + hiss * level) * rng.uniform(0.25, 1.0)
        return np.clip(sound, -1.0, 1.0).astype(np.float32), spans


def main() -> None:
    """``python -m nano.speech --out words.npz``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per-voice", type=int, default=1)
    options = parser.parse_args()
    build(options.out, per_voice=options.per_voice)


if __name__ == "__main__":
    main()
