"""Teaches the towers before the text model: every soft token says what it sees or hears.

A text model that must learn at once to see, to look and to write coordinates stands on a plateau for hours.
What a picture shows is known for every cell of it, so the vision tower learns that directly: linear heads
over the soft tokens tell the object under each (kind, colour, place, number from the top, caption) or the
letters; a head over those of a sound tells the word that was just said. The heads are thrown away; what they
read stays in the soft tokens, in the form in which the text model will write it (hundreds, tens).

``python -m nano.towers eyes --out OUT --start CHECKPOINT`` writes ``OUT/eyes.safetensors``, ``ears`` writes
the other; ``nano.train_cores --towers OUT`` begins from them. Each process takes one core; the same command
goes on.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing as processes
from nano.cells import EARS, EYES, Arrays, draw_pictures, draw_sounds
from nano.config import build_model, load_weights
from nano.dialogue import IGNORE
from nano.fast import Packed, working_copy
from nano.muon import Muon
from nano.packed import SMALL_PICTURE
from nano.speech import Voices
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

PARTS = {"eyes": ("vision_tower", "embed_vision"), "ears": ("audio_tower", "embed_audio")}
VALUE_WEIGHT = 40.0  # of the places as numbers
HEADS_ALONE = 100  # steps in which fresh heads learn to read a tower that knows something, and spare it
VALUE_SCALE = 0.05  # a step of the optimizer must move a place by less than it is off


class Heads(nn.Module):
    """One linear reading of the soft tokens for all questions."""

    def __init__(self, sizes: dict[str, tuple[int, int, float]], hidden: int, n_values: int) -> None:
        super().__init__()
        self.sizes, self.n_values = sizes, n_values
        self.linear = nn.Linear(hidden, sum(c * w for c, w, _ in sizes.values()) + n_values)

    def loss(
        self, soft: torch.Tensor, truth: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The weighted sum of the losses, and the share of right answers by head."""
        out = self.linear(soft)
        total, right, at = out.sum() * 0.0, {}, 0
        for name, (classes, width, weight) in self.sizes.items():
            logits = out[:, at : at + classes * width].reshape(-1, classes)
            at += classes * width
            wanted = truth[name].reshape(-1)
            asked = wanted != IGNORE
            if not bool(asked.any()):
                continue
            total = total + weight * functional.cross_entropy(logits[asked], wanted[asked])
            right[name] = float((logits[asked].argmax(-1) == wanted[asked]).float().mean())
        if self.n_values:
            wanted = truth["value"]
            seen = ~wanted.isnan()
            if bool(seen.any()):
                off = (0.5 + out[:, at:] * VALUE_SCALE - wanted)[seen].abs().mean()
                total = total + VALUE_WEIGHT * off
                right["off"] = float(off.detach())
        return total, right


class Teacher:
    """One tower, its heads, its optimizers and where the run stands."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.file = options.out / f"{options.tower}.pt"
        self.model = build_model(options.seed)
        if options.start is not None:
            load_weights(self.model, options.start)
        self.names = [
            name
            for name, _ in self.model.named_parameters()
            if any(part in name for part in PARTS[options.tower])
        ]
        self.heads = Heads(*((EYES, 256, 6) if options.tower == "eyes" else (EARS, 256, 0)))
        self.step, self.seconds = 0, 0.0
        self.heads_alone = HEADS_ALONE if options.start is not None else 0
        if self.file.is_file():
            state = torch.load(self.file, weights_only=True)
            self.model.load_state_dict(state["model"], strict=False)
            self.heads.load_state_dict(state["heads"])
            self.step, self.seconds = state["step"], state["seconds"]
            print(f"resumed at step {self.step}", flush=True)
        self.first = self.step
        self.work = working_copy(self.model).train()
        packed = Packed(self.work, options.compiled)
        hears = options.tower == "ears"
        self.soft_of = packed.sounds if hears else packed.pictures
        self.voices = Voices.load(options.words, held_out=False) if hears else None
        weights, own = dict(self.model.named_parameters()), dict(self.work.named_parameters())
        self.pairs = [(weights[name], own[name]) for name in self.names]
        inner = [weights[name] for name in self.names if weights[name].ndim == 2 and ".layers." in name]
        known = {id(weight) for weight in inner}
        others = [weight for weight, _ in self.pairs if id(weight) not in known]
        self.optimizers = [
            Muon(inner, lr=options.lr, weight_decay=0.02),
            torch.optim.Adam([*others, *self.heads.parameters()], lr=options.lr, betas=(0.9, 0.98)),
        ]

    @property
    def progress(self) -> float:
        """How much of the schedule is done, 0 to 1."""
        return min(1.0, self.seconds / (60 * self.options.minutes))

    def rate(self) -> float:
        """Learning rate: warm-up, a plateau, then straight down over the last part."""
        left = min(1.0, (1.0 - self.progress) / self.options.decay)
        return self.options.lr * (0.02 + 0.98 * left) * min(1.0, (self.step - self.first + 1) / 50)

    def batches(self, number: int) -> Iterator[tuple[Arrays, Arrays]]:
        """The small batches of the next step of one process."""
        options = self.options
        rng = random.Random(f"{options.seed}/{options.tower}/{self.step}/{number}")
        if self.voices is not None:
            yield draw_sounds(rng, self.voices, 8)
            return
        large = self.progress >= options.large_from
        if not large:  # cheap, and colours and kinds are learned from them as well
            yield draw_pictures(rng, SMALL_PICTURE, 12, 0.0)
        yield draw_pictures(rng, 70, 8, options.text)
        if large and self.step % 3 == 0:
            yield draw_pictures(rng, 280, 2, options.text)

    def train_step(self, number: int) -> dict[str, float]:
        """One update on some small batches; shares of right answers."""
        with torch.no_grad():
            for weight, own in self.pairs:
                own.copy_(weight)
                own.grad = None
        for parameter in self.heads.parameters():
            parameter.grad = None
        report: dict[str, list[float]] = {}
        for made, truth in self.batches(number):
            soft = self.soft_of({name: torch.from_numpy(value) for name, value in made.items()})
            if self.step < self.heads_alone:
                soft = soft.detach()
            loss, right = self.heads.loss(soft, {name: torch.from_numpy(v) for name, v in truth.items()})
            loss.backward()
            kind = str(made["pixels"].shape[1] // 9) if "pixels" in made else ""
            for name, value in {"loss": float(loss.detach()), **right}.items():
                report.setdefault(kind + name, []).append(value)
        for weight, own in self.pairs:
            weight.grad = torch.zeros_like(weight) if own.grad is None else own.grad.float()
        learned = [*(weight for weight, _ in self.pairs), *self.heads.parameters()]
        if self.options.processes > 1:
            gradients = [weight.grad for weight in learned if weight.grad is not None]
            mean = torch.nn.utils.parameters_to_vector(gradients) / self.options.processes
            torch.distributed.all_reduce(mean)
            torch.nn.utils.vector_to_parameters(mean, gradients)
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate()
            optimizer.step()
        self.step += 1
        return {name: sum(values) / len(values) for name, values in report.items()}

    def save(self) -> None:
        """Writes the state to go on from and the tower's weights."""
        tower = {name: value for name, value in self.model.state_dict().items() if name in self.names}
        state = {"model": tower, "heads": self.heads.state_dict(), "step": self.step, "seconds": self.seconds}
        torch.save(state, self.file.with_suffix(".tmp"))
        self.file.with_suffix(".tmp").replace(self.file)
        save_file(
            {name: value.detach().contiguous() for name, value in tower.items()},
            self.options.out / f"{self.options.tower}.safetensors",
        )


@torch.no_grad()
def load_towers(model: Any, directory: Path) -> int:
    """Takes what :class:`Teacher` wrote for either tower; returns how many tensors."""
    weights, taken = dict(model.named_parameters()), 0
    for tower in PARTS:
        file = directory / f"{tower}.safetensors"
        if file.is_file():
            for name, value in load_file(file).items():
                weights[name].copy_(value)
                taken += 1
    return taken


def all_same(value: float, options: argparse.Namespace) -> float:
    """The largest of what the processes say."""
    if options.processes > 1:
        told = torch.tensor(value, dtype=torch.float64)
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
        return float(told)
    return value


def run(number: int, options: argparse.Namespace) -> None:
    """Teaches until the schedule ends or a signal comes; process ``number`` of several."""
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.processes > 1:
        where = f"file://{(options.out / 'meeting').absolute()}"
        torch.distributed.init_process_group("gloo", where, rank=number, world_size=options.processes)
    teacher = Teacher(options)
    stop: list[int] = []
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, lambda received, _: stop.append(received))
    sums: dict[str, list[float]] = {}
    saved_at = time.monotonic()
    while teacher.progress < 1.0 and not all_same(len(stop), options):
        begin = time.monotonic()
        for name, value in teacher.train_step(number).items():
            sums.setdefault(name, []).append(value)
        teacher.seconds = all_same(teacher.seconds + time.monotonic() - begin, options)
        if number:
            continue
        if teacher.step % options.log_every == 0:
            means = {name: round(sum(values) / len(values), 4) for name, values in sums.items()}
            entry = {"step": teacher.step, "minutes": round(teacher.seconds / 60, 2), **means}
            print(json.dumps(entry), flush=True)
            sums = {}
        if time.monotonic() - saved_at > 60:
            teacher.save()
            saved_at = time.monotonic()
    if not number:
        teacher.save()


def main() -> None:
    """``python -m nano.towers eyes --out OUT``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tower", choices=tuple(PARTS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--words", type=Path, help="cache of nano.speech (default OUT/words.npz)")
    parser.add_argument("--minutes", type=float, default=20.0, help="length of the schedule")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--text", type=float, default=0.4, help="share of printed words")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=0.4, help="share of the schedule with a falling rate")
    parser.add_argument(
        "--large-from", type=float, default=0.5, help="share with pictures of budget 16, before 280"
    )
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--start", type=Path, help="checkpoint whose weights to go on from")
    parser.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--log-every", type=int, default=20)
    options = parser.parse_args()
    options.words = options.words or options.out / "words.npz"
    if options.processes == 1:
        run(0, options)
        return
    (options.out / "meeting").unlink(missing_ok=True)
    context = processes.spawn(run, (options,), options.processes, join=False)

    def tell(received: int, _: Any) -> None:
        for process in context.processes:
            process.terminate()  # they save and end together

    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, tell)
    while not context.join():
        pass


if __name__ == "__main__":
    main()
