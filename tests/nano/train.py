"""Trains the nano checkpoint. One command, resumable, for two cores or one GPU.

From the root of the repository::

    apt-get install espeak-ng
    PYTHONPATH=tests python -m nano.speech --out OUT/words.npz            # 15 s, once
    PYTHONPATH=tests python -m nano.train --out OUT --steps 4000          # 4 s a step on one quiet core
    PYTHONPATH=tests python -m nano.train --out OUT --minutes 20 --size 20 --workers 14    # one large GPU

The same command goes on where it was stopped (Ctrl-C and SIGTERM save first); ``--steps`` or ``--minutes``
of training time set the length of the cosine. The second form needs torch, transformers >= 5.23, tokenizers,
numpy and Pillow, no network and no espeak-ng: carry ``words.npz`` along. While the file given by
``--pause-file`` exists, training waits.

Each step takes one batch of every kind (text, picture, sound, clip). The first part of the schedule
(``--easy``) shows one or two shapes and one or two words, then the whole mix; from ``--rounding`` on the
forward pass sees the weights as Q4_K will keep them. ``OUT`` receives
``tokenizer.json``, ``train.pt``, ``log.jsonl`` and ``checkpoint/`` (transformers layout).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from nano.batch import Encoder
from nano.clamps import set_clamps
from nano.config import build_model, load_weights, write_checkpoint
from nano.dialogue import IGNORE
from nano.rounding import quantized_later, rounded_weights
from nano.speech import Voices
from nano.tasks import KINDS, Mix
from nano.tokenizer import train as train_tokenizer
from nano.towers import load_towers
from torch.nn import functional

SIZES = {"text": 12, "picture": 8, "sound": 8, "clip": 2}  # times --size
WEIGHTS = {"text": 1.0, "picture": 1.0, "sound": 0.7, "clip": 0.5}


class Batches(torch.utils.data.Dataset):
    """Batch ``i`` is of kind ``i % 4``; everything in it follows from the seed and ``i``."""

    def __init__(self, options: argparse.Namespace, tokenizer_json: Path, easy: Any) -> None:
        self.options, self.tokenizer_json, self.easy = options, tokenizer_json, easy
        self.ready: tuple[Encoder, Mix] | None = None

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """The tensors of one batch."""
        if self.ready is None:  # in the worker, so that nothing large travels
            voices = Voices.load(self.options.words, held_out=False)
            self.ready = Encoder(self.tokenizer_json), Mix(voices, self.options.large_pictures)
        encoder, mix = self.ready
        mix.easy = bool(self.easy.value)
        kind = KINDS[index % len(KINDS)]
        size = max(1, round(SIZES[kind] * self.options.size))
        batch = encoder.collate(mix.batch(kind, size, self.options.seed * 1_000_003 + index))
        return {name: torch.from_numpy(value) for name, value in batch.items()}


def batches(options: argparse.Namespace, tokenizer_json: Path, easy: Any, first: int) -> Iterator[Any]:
    """Batches from number ``first`` on, made by worker processes where asked."""
    loader = torch.utils.data.DataLoader(
        Batches(options, tokenizer_json, easy),
        batch_size=None,
        sampler=range(first, first + 10**7),
        num_workers=options.workers,
        prefetch_factor=4 if options.workers else None,
        pin_memory=options.device == "cuda",
    )
    return iter(loader)


def loss_of(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, float]:
    """Cross entropy over the learned tokens and the share of them predicted right.

    Logits are computed only where something is learned, which is a small part of a sequence.
    """
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].float() / 255.0
    hidden = model.model(**inputs, use_cache=False).last_hidden_state
    target = batch["labels"][:, 1:]
    learned = target != IGNORE
    logits = model.lm_head(hidden[:, :-1][learned]).float()
    cap = model.config.text_config.final_logit_softcapping
    logits = torch.tanh(logits / cap) * cap
    wanted = target[learned]
    right = (logits.argmax(-1) == wanted).float().mean()
    return functional.cross_entropy(logits, wanted), float(right.detach())


def make_optimizers(model: Any, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for tables, norms, convolutions and projections.

    Measured on text alone, 160 steps: loss 1.35 with Muon, 1.59 with AdamW for everything.
    """
    inner = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and ".layers." in name]
    known = {id(weight) for weight in inner}
    others = [weight for weight in model.parameters() if id(weight) not in known]
    return [
        torch.optim.Muon(inner, lr=rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


class Trainer:
    """The model, its optimizers and where the run stands."""

    def __init__(self, options: argparse.Namespace, tokenizer_json: Path) -> None:
        self.options, self.tokenizer_json = options, tokenizer_json
        self.device = torch.device(options.device)
        self.model = build_model(options.seed)
        if options.start is not None:
            load_weights(self.model, options.start)
        if options.towers is not None:
            print(f"took {load_towers(self.model, options.towers)} tensors of towers", flush=True)
        self.model.to(self.device).train()
        self.optimizers = make_optimizers(self.model, options.lr)
        self.step, self.seconds = 0, 0.0
        self.file = options.out / "train.pt"
        if self.file.is_file():
            state = torch.load(self.file, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step, self.seconds = state["step"], state["seconds"]
            print(f"resumed at step {self.step}, {self.seconds / 60:.1f} minutes", flush=True)

    @property
    def progress(self) -> float:
        """How much of the schedule is done, 0 to 1."""
        if self.options.minutes:
            return min(1.0, self.seconds / (60 * self.options.minutes))
        return min(1.0, self.step / self.options.steps)

    def rate(self) -> float:
        """Learning rate: linear warm-up, then a cosine down to a fiftieth."""
        low = self.options.lr / 50
        rate = low + (self.options.lr - low) * 0.5 * (1 + math.cos(math.pi * self.progress))
        return rate * min(1.0, (self.step + 1) / self.options.warmup)

    def train_step(self, stream: Iterator[Any]) -> dict[str, float]:
        """One batch of every kind and one update; returns the losses and shares of right tokens."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate()
            optimizer.zero_grad(set_to_none=True)
        report = {}
        late = self.progress >= self.options.rounding
        with rounded_weights(quantized_later(self.model) if late else []):
            for kind in KINDS:
                batch = {
                    name: value.to(self.device, non_blocking=True) for name, value in next(stream).items()
                }
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.bf16):
                    loss, right = loss_of(self.model, batch)
                (loss * WEIGHTS[kind]).backward()
                report[kind], report[kind + "_right"] = float(loss.detach()), right
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        return report

    def save(self) -> None:
        """Writes ``train.pt`` whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, self.file.with_suffix(".tmp"))
        os.replace(self.file.with_suffix(".tmp"), self.file)


def export_checkpoint(trained: Any, options: argparse.Namespace, step: int) -> None:
    """Sets the clamps from what the towers see and writes ``OUT/checkpoint``."""
    tokenizer_json = options.out / "tokenizer.json"
    encoder, mix = Encoder(tokenizer_json), Mix(Voices.load(options.words, held_out=False))
    seen = [encoder.collate(mix.batch(kind, 8, seed)) for kind in ("picture", "sound") for seed in range(2)]
    model = build_model(options.seed)
    model.load_state_dict({name: value.float().cpu() for name, value in trained.state_dict().items()})
    set_clamps(model, seen)
    size = write_checkpoint(model, tokenizer_json, options.out / "checkpoint")
    print(f"checkpoint of {size} bytes after step {step}", flush=True)


def run(options: argparse.Namespace) -> None:
    """Trains until the schedule ends or a signal comes."""
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer_json = options.out / "tokenizer.json"
    if not tokenizer_json.is_file() and options.start is not None:
        tokenizer_json.write_bytes((options.start / "tokenizer.json").read_bytes())
    elif not tokenizer_json.is_file():
        train_tokenizer(Voices.load(options.words, held_out=False)).save(str(tokenizer_json))
    trainer = Trainer(options, tokenizer_json)
    stop: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: stop.append(received))
    easy = multiprocessing.Value(ctypes.c_bool, trainer.progress < options.easy)
    stream = batches(options, tokenizer_json, easy, trainer.step * len(KINDS))
    sums: dict[str, float] = {}
    n_summed, saved_at, exported_at = 0, time.monotonic(), time.monotonic()
    with (options.out / "log.jsonl").open("a", encoding="utf-8") as log:
        while trainer.progress < 1.0 and not stop:
            while options.pause_file is not None and options.pause_file.exists() and not stop:
                time.sleep(5)
            begin = time.monotonic()
            easy.value = trainer.progress < options.easy
            for name, value in trainer.train_step(stream).items():
                sums[name] = sums.get(name, 0.0) + value
            n_summed += 1
            trainer.seconds += time.monotonic() - begin
            if trainer.step % options.log_every == 0:
                means = {name: round(value / n_summed, 4) for name, value in sums.items()}
                entry = {
                    "step": trainer.step,
                    "minutes": round(trainer.seconds / 60, 2),
                    "lr": trainer.rate(),
                    **means,
                }
                log.write(json.dumps(entry) + "\n")
                log.flush()
                print(json.dumps(entry), flush=True)
                sums, n_summed = {}, 0
            if time.monotonic() - saved_at > 60 * options.save_minutes:
                trainer.save()
                saved_at = time.monotonic()
            if time.monotonic() - exported_at > 60 * options.export_minutes:
                export_checkpoint(trainer.model, options, trainer.step)
                exported_at = time.monotonic()
    trainer.save()
    export_checkpoint(trainer.model, options, trainer.step)


def main() -> None:
    """``python -m nano.train --out OUT``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--words", type=Path, help="cache of nano.speech (default OUT/words.npz)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, help="default: on a GPU only")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument(
        "--minutes", type=float, help="length of the schedule in training time instead of steps"
    )
    parser.add_argument("--size", type=float, default=1.0, help=f"times the batch sizes {SIZES}")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--warmup", type=int, default=100, help="steps")
    parser.add_argument("--easy", type=float, default=0.3, help="share of the schedule with easy scenes")
    parser.add_argument(
        "--rounding", type=float, default=0.6, help="share of the schedule before Q4_K rounding"
    )
    parser.add_argument(
        "--large-pictures", type=float, default=0.4, help="share of picture batches above budget 70"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=Path, help="checkpoint whose weights and tokenizer to go on from")
    parser.add_argument("--towers", type=Path, help="where nano.towers wrote what it taught")
    parser.add_argument("--pause-file", type=Path, help="wait while this file exists")
    parser.add_argument("--log-every", type=int, default=20)
    parser.add_argument("--save-minutes", type=float, default=5.0)
    parser.add_argument("--export-minutes", type=float, default=30.0)
    options = parser.parse_args()
    options.words = options.words or options.out / "words.npz"
    options.bf16 = options.device == "cuda" if options.bf16 is None else options.bf16
    run(options)


if __name__ == "__main__":
    main()
