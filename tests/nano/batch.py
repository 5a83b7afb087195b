"""From dialogues to the tensors of a batch: token ids, labels, patches, mel features.

Pictures are prepared by :mod:`nano.picture`, sounds by transformers' own feature extractor; both numpy, so
worker processes can do it.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from nano.dialogue import IGNORE, Dialogue, labels_of, render
from nano.picture import patches
from nano.tokenizer import CONTROL
from tokenizers import Tokenizer

ID = {token: index for index, token in enumerate(CONTROL)}


@functools.cache
def _extractor() -> Any:
    from transformers import Gemma4AudioFeatureExtractor

    return Gemma4AudioFeatureExtractor()


def features(sound: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Log-mel features of one sound.

    Args:
        sound: float32 ``[samples]`` at 16 kHz.

    Returns:
        float32 ``[frames, 128]``, bool ``[frames]`` (False is padding), and the number of soft tokens.
    """
    made = _extractor()([sound])
    mel = np.asarray(made["input_features"][0], dtype=np.float32)
    mask = np.asarray(made["input_features_mask"][0], dtype=bool)
    return mel, mask, int(mask[::2][::2].sum())


class Encoder:
    """Turns dialogues into batches.

    Args:
        tokenizer_json: file of :mod:`nano.tokenizer`.
    """

    def __init__(self, tokenizer_json: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(tokenizer_json))
        self.model_word = self.tokenizer.token_to_id("model")
        self.digits = tuple(self.tokenizer.token_to_id(digit) for digit in "0123456789")

    def ids(self, text: str, n_image: list[int], n_sound: list[int]) -> list[int]:
        """Token ids with each placeholder widened to its soft tokens and wrapped in its markers."""
        images, sounds = iter(n_image), iter(n_sound)
        out: list[int] = []
        for token in self.tokenizer.encode(text, add_special_tokens=False).ids:
            if token == ID["<|image|>"]:
                out += [ID["<|image>"], *[token] * next(images), ID["<image|>"]]
            elif token == ID["<|audio|>"]:
                out += [ID["<|audio>"], *[token] * next(sounds), ID["<audio|>"]]
            else:
                out.append(token)
        return out

    def encode(self, dialogue: Dialogue, prompt_only: bool = False) -> dict[str, Any]:
        """One dialogue: ids, labels, and its prepared media."""
        text, media = render(dialogue, prompt_only)
        pictures = [patches(image, n) for image, n in zip(media.images, media.image_tokens, strict=True)]
        sounds = [features(sound) for sound in media.sounds]
        ids = self.ids(text, [n for _, _, n in pictures], [n for _, _, n in sounds])
        return {
            "ids": ids,
            "labels": labels_of(ids, ID, self.model_word),
            "pictures": pictures,
            "sounds": sounds,
        }

    def encode_beside(self, dialogue: Dialogue, media: dict[str, Any]) -> dict[str, Any]:
        """Another dialogue about media that are prepared already."""
        text, _ = render(dialogue)
        ids = self.ids(text, [n for _, _, n in media["pictures"]], [n for _, _, n in media["sounds"]])
        return {"ids": ids, "labels": labels_of(ids, ID, self.model_word), **media}

    def collate(self, dialogues: list[Dialogue], prompt_only: bool = False) -> dict[str, np.ndarray]:
        """A batch padded on the right.

        Returns:
            ``input_ids`` and ``labels`` int64 ``[batch, length]``; with pictures ``pixel_values`` uint8
            ``[images, patches, 768]`` and ``image_position_ids`` int64 ``[images, patches, 2]`` (-1 is
            padding); with sounds ``input_features`` float32 ``[sounds, frames, 128]`` and its bool mask.
        """
        encoded = [self.encode(dialogue, prompt_only) for dialogue in dialogues]
        length = max(len(one["ids"]) for one in encoded)
        batch = {
            "input_ids": np.full((len(encoded), length), ID["<pad>"], np.int64),
            "labels": np.full((len(encoded), length), IGNORE, np.int64),
        }
        for row, one in enumerate(encoded):
            batch["input_ids"][row, : len(one["ids"])] = one["ids"]
            batch["labels"][row, : len(one["ids"])] = one["labels"]
        pictures = [picture for one in encoded for picture in one["pictures"]]
        if pictures:
            most = max(len(cut) for cut, _, _ in pictures)
            batch["pixel_values"] = np.zeros((len(pictures), most, 768), np.uint8)
            batch["image_position_ids"] = np.full((len(pictures), most, 2), -1, np.int64)
            for row, (cut, positions, _) in enumerate(pictures):
                batch["pixel_values"][row, : len(cut)] = cut
                batch["image_position_ids"][row, : len(cut)] = positions
        sounds = [sound for one in encoded for sound in one["sounds"]]
        if sounds:
            most = max(len(mel) for mel, _, _ in sounds)
            batch["input_features"] = np.zeros((len(sounds), most, 128), np.float32)
            batch["input_features_mask"] = np.zeros((len(sounds), most), bool)
            for row, (mel, mask, _) in enumerate(sounds):
                batch["input_features"][row, : len(mel)] = mel
                batch["input_features_mask"][row, : len(mel)] = mask
        return batch
