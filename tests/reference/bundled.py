"""Record what transformers computes for the bundled checkpoint, for `gemma4-gguf doctor`.

    pip install -e '.[reference]'
    PYTHONPATH=tests:tests/helpers python tests/reference/bundled.py [directory]

Run it whenever gemma4_gguf/nano changes: it writes reference.npz and checksums.json there. Numbers are
computed in float32 with eager attention. Of many candidate questions those become known answers that the
checkpoint answers as asked, ends by itself, and is so sure of that quantization does not change them.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image as PILImage
from reference.record import load_exactly
from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

from gemma4_gguf.doctor.reference import (
    REFERENCE,
    Embedding,
    Medium,
    Numbers,
    Question,
    Reference,
    probe_sound,
)
from gemma4_gguf.engine.token_stream import log_probabilities
from gemma4_gguf.media.audio import load_audio
from gemma4_gguf.nano.bundled import write_checksums
from gemma4_gguf.tasks.boxes import read_boxes
from gemma4_gguf.templates import Renderer, load

NANO = Path(__file__).resolve().parents[2] / "gemma4_gguf" / "nano"
SAMPLE_RATE_HZ = 16_000
PARAGRAPH = (
    "The quick brown fox jumps over the lazy dog while it waits for the night train to Zürich.\n"
    "Seven wet red circles and two big blue squares stand left of the sky, 1234567890 times!\n"
)
BEYOND_WINDOW = 64  # tokens of the text that no longer see its beginning in the sliding layers
N_ROWS = 48  # places at which a distribution is kept
TOP = 32  # tokens kept of a distribution
MAX_NEW_TOKENS = 150
PER_KIND = 2  # known answers about each kind of medium, and without one
# Logits by which the taken token leads at every step of a known answer. Q4_K_M moves them by about one.
MARGIN = 2.0

_TOWER = {"picture": "vision_config", "sound": "audio_config"}
_MARKS = {
    "picture": ("boi_token_id", "image_token_id", "eoi_token_id"),
    "sound": ("boa_token_id", "audio_token_id", "eoa_token_index"),
}
BOXES = r"\s*\[\s*\{.*box_2d.*\}\s*\]\s*"
# Question → what an answer looks like. The first that fit are taken.
CANDIDATES: dict[str, tuple[tuple[str, str], ...]] = {
    "picture": (
        ("detect", BOXES),
        ("Detect all objects.", BOXES),
        ("Describe the picture.", r"[A-Z].*\."),
        ("How many objects are there?", r"\d+"),
        ("What does it say?", r"\w+"),
    ),
    "sound": (("Transcribe the audio.", r"\w+( \w+)*"), ("What does the voice say?", r"\w+.*")),
    "": (
        ("What is 47 + 38?", r"85\.?"),
        ("What is 12 + 35?", r"47\.?"),
        ("Repeat: red green blue", "red green blue"),
        ("My name is Anna. What is my name?", r".*\bAnna\b.*"),
    ),
}


class Recorder:
    """The checkpoint, loaded.

    Args:
        folder: of the checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        transformers.logging.set_verbosity_error()
        self.folder = folder
        self.config, self.tokenizer, self.model = load_exactly(folder)
        self.renderer = Renderer(load("small"))

    def record(self) -> Reference:
        """Everything that the doctor compares with."""
        weights = self.folder / "model.safetensors"
        questions = list(self.questions())
        numbers, embeddings = {"text": self.text()}, {}
        for kind, medium in self.media().items():
            embeddings[kind] = Embedding(medium, self.soft(medium)[0].numpy().astype(np.float16))
            about = [question for question in questions if question.medium and question.medium.kind == kind]
            asked = about[0] if about else Question("What is this?", medium, "", False)
            numbers[kind] = self.around(asked.medium or medium, asked.text, asked.answer)
        return Reference(
            folder=self.folder,
            made_with={
                "transformers": transformers.__version__,
                "torch": torch.__version__.split("+")[0],
                "model.safetensors": hashlib.sha256(weights.read_bytes()).hexdigest(),
            },
            numbers=numbers,
            embeddings=embeddings,
            questions=questions,
        )

    def media(self) -> dict[str, Medium]:
        """One picture and one sound for the towers that the checkpoint has."""
        found = {}
        if self.config.get("vision_config"):
            pictures = self.samples("picture")
            if not pictures:
                raise SystemExit(f"{self.folder}/samples has no .png; the doctor shows the model one.")
            found["picture"] = pictures[0]
        if self.config.get("audio_config"):
            found["sound"] = (self.samples("sound") or [Medium("sound", "")])[0]
        return found

    def samples(self, kind: str) -> list[Medium]:
        """The lossless pictures or sounds in samples/."""
        suffixes = {"picture": (".png",), "sound": (".wav", ".flac")}[kind]
        files = sorted(path for path in (self.folder / "samples").iterdir() if path.suffix in suffixes)
        return [Medium(kind, path.relative_to(self.folder).as_posix()) for path in files]  # type: ignore[arg-type]

    # Numbers

    def text(self) -> Numbers:
        """A text that is longer than the sliding window."""
        window = self.config.get("text_config", self.config)["sliding_window"]
        one = len(self.ids(PARAGRAPH))
        text = PARAGRAPH * -(-(window + BEYOND_WINDOW) // one)
        ids = [self.tokenizer.bos_token_id, *self.ids(text)]
        logits = self.model(input_ids=torch.tensor([ids])).logits[0]
        return _numbers(text, ids, None, [], np.linspace(8, len(ids) - 1, N_ROWS), logits)

    def around(self, medium: Medium, text: str, answer: str) -> Numbers:
        """What is predicted after a picture or sound, over the question and the answer to it."""
        before, after = self.prompt(text, medium)
        after = [*after, *self.ids(answer)]
        whole, inputs = self.whole(before, medium, after)
        logits = self.logits(whole, inputs, self.config[_MARKS[medium.kind][1]])
        places = np.arange(len(whole) - len(after), len(whole))
        chosen = places[np.unique(np.linspace(0, len(places) - 1, N_ROWS).astype(int))]
        return _numbers("", before, medium, after, chosen, logits)

    def whole(
        self, before: list[int], medium: Medium | None, after: list[int]
    ) -> tuple[list[int], dict[str, Any]]:
        """Ids of the whole prompt, and the tensors that hold its medium."""
        if medium is None:
            return [*before, *after], {}
        soft, inputs = self.soft(medium)
        begin, middle, end = (self.config[key] for key in _MARKS[medium.kind])
        return [*before, begin, *[middle] * len(soft), end, *after], inputs

    def logits(self, whole: list[int], inputs: dict[str, Any], middle: int) -> torch.Tensor:
        """Logits [n, n_vocab], with the masks that generate() makes."""
        tokens = torch.tensor([whole])
        pictured = "pixel_values" in inputs
        masks = self.model.create_masks_for_generate(
            config=self.model.config,
            inputs_embeds=self.model.get_input_embeddings()(tokens),
            attention_mask=torch.ones_like(tokens),
            past_key_values=None,
            position_ids=torch.arange(len(whole))[None],
            mm_token_type_ids=(tokens == middle).int() * pictured,
        )
        return self.model(input_ids=tokens, attention_mask=masks, **inputs).logits[0]

    def soft(self, medium: Medium) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Soft tokens of a picture or sound, float32 [n_tokens, n_embd], and the tensors that made them."""
        path = self.folder / medium.file
        if medium.kind == "picture":
            processor = Gemma4ImageProcessorPil(max_soft_tokens=medium.image_tokens)
            inputs = dict(processor(PILImage.open(path).convert("RGB"), return_tensors="pt"))
            inputs.pop("num_soft_tokens_per_image")
            features = self.model.model.get_image_features(**inputs, return_dict=True).pooler_output
            return (features[0] if isinstance(features, tuple) else features), inputs
        samples = load_audio(path) if medium.file else probe_sound()
        batch = Gemma4AudioFeatureExtractor()([samples], sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
        inputs = {name: batch[name] for name in ("input_features", "input_features_mask")}
        output = self.model.model.get_audio_features(*inputs.values(), return_dict=True)
        valid = getattr(output, "attention_mask", None)
        return (output.pooler_output[0] if valid is None else output.pooler_output[valid]), inputs

    # Known answers

    def questions(self) -> Iterator[Question]:
        """For each kind, the first candidates that make good ones."""
        for kind, candidates in CANDIDATES.items():
            media: list[Medium | None] = [None]
            if kind:
                media = list(self.samples(kind)) if self.config.get(_TOWER[kind]) else []
            asked = (
                self.candidate(text, medium, pattern) for text, pattern in candidates for medium in media
            )
            yield from islice((question for question in asked if question is not None), PER_KIND)

    def candidate(self, text: str, medium: Medium | None, pattern: str) -> Question | None:
        """The question with its answer, or None if it is no good one."""
        before, after = self.prompt(text, medium)
        ids, margin = self.greedy(before, medium, after)
        answer = self.tokenizer.decode(ids).strip()
        if margin < MARGIN or not re.fullmatch(pattern, answer, re.S):
            return None
        boxes = pattern == BOXES
        if boxes and not read_boxes(answer, (100, 100)):
            return None
        print(f"{text!r} {medium.file if medium else ''}: {answer!r}, least lead {margin:.1f}")
        return Question(text, medium, answer, boxes)

    def greedy(self, before: list[int], medium: Medium | None, after: list[int]) -> tuple[list[int], float]:
        """The likeliest answer and the least lead of a taken token; -1 if it does not end.

        The digits of boxes do not count: a neighbouring digit is the same place.
        """
        ends = set(self.tokenizer.convert_tokens_to_ids(["<turn|>", "<eos>", "<|tool_response>"]))
        whole, inputs = self.whole(before, medium, after)
        made = self.model.generate(
            input_ids=torch.tensor([whole]),
            attention_mask=torch.ones(1, len(whole), dtype=torch.long),
            **inputs,
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            eos_token_id=sorted(ends),
            output_logits=True,
            return_dict_in_generate=True,
        )
        ids = made.sequences[0, len(whole) :].tolist()
        if ids[-1] not in ends:
            return ids, -1.0
        text = self.tokenizer.decode(ids)
        leads = []
        for token, logits in zip(ids, made.logits, strict=True):
            best = logits[0].topk(2).values
            if "box_2d" not in text or not self.tokenizer.decode([token]).strip().isdigit():
                leads.append(float(best[0] - best[1]))
        return ids[:-1], min(leads)

    # Prompts

    def prompt(self, text: str, medium: Medium | None) -> tuple[list[int], list[int]]:
        """Ids before and after the medium; all of them before if there is none."""
        kind = {"picture": "image", "sound": "audio"}.get(medium.kind if medium else "", "")
        parts = [*([{"type": kind}] if kind else []), {"type": "text", "text": text}]
        written = self.renderer.render([{"role": "user", "content": parts}])
        before, mark, after = written.partition(f"<|{kind}|>") if kind else (written, "", "")
        if bool(mark) != bool(kind):
            raise SystemExit(f"the template writes no <|{kind}|>: {written!r}")
        return self.ids(before), self.ids(after)

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def _numbers(
    text: str,
    before: list[int],
    medium: Medium | None,
    after: list[int],
    rows: np.ndarray,
    logits: torch.Tensor,
) -> Numbers:
    places = rows.astype(np.int32)
    return Numbers(text, before, medium, after, places, *likeliest(logits[places].double().numpy()))


def likeliest(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is kept of distributions.

    Args:
        logits: [n, n_vocab].

    Returns:
        The TOP likeliest tokens of each, int32 [n, TOP], and their log-probabilities, float32 [n, TOP].
    """
    log_all = log_probabilities(logits)
    tokens = np.argsort(-log_all, axis=-1, kind="stable")[:, :TOP]
    return tokens.astype(np.int32), np.take_along_axis(log_all, tokens, axis=-1).astype(np.float32)


def save_reference(reference: Reference) -> None:
    """Write a record beside its checkpoint."""
    arrays: dict[str, np.ndarray] = {}
    head: dict[str, Any] = {"made_with": reference.made_with, "numbers": {}, "embeddings": {}}
    for name, case in reference.numbers.items():
        head["numbers"][name] = {"text": case.text, "medium": case.medium and asdict(case.medium)}
        for field in ("before", "after", "rows", "tokens", "log_probabilities"):
            value = np.asarray(getattr(case, field))
            arrays[f"{name}/{field}"] = value if value.dtype == np.float32 else value.astype(np.int32)
    for name, embedding in reference.embeddings.items():
        head["embeddings"][name] = {"medium": asdict(embedding.medium)}
        arrays[f"{name}/vectors"] = embedding.vectors
    head["questions"] = [asdict(question) for question in reference.questions]
    with (reference.folder / REFERENCE).open("wb") as out:
        np.savez_compressed(out, head=np.array(json.dumps(head)), **arrays)  # type: ignore[arg-type]


def record(folder: Path) -> None:
    """Write reference.npz and checksums.json of a checkpoint.

    Args:
        folder: of the checkpoint.
    """
    torch.set_num_threads(2)
    save_reference(Recorder(folder).record())
    write_checksums(folder)


if __name__ == "__main__":
    record(Path(sys.argv[1]) if len(sys.argv) > 1 else NANO)
