"""Trains the nano checkpoint on CPU cores: packed rows, bfloat16, one process a core.

From the root of the repository::

    PYTHONPATH=tests python -m nano.speech --out OUT/words.npz            # 15 s, once
    PYTHONPATH=tests python -m nano.train_cores --out OUT

Each step has a fixed list of small batches; whichever process is free takes the next and adds its gradient
to its own sum, so that a core which others use slows nothing but itself. Ctrl-C and SIGTERM save first; the
same command goes on, with fresh optimizers. ``--start CHECKPOINT`` begins from written weights. While the
file of ``--pause-file`` exists, training waits. ``--towers OUT`` takes what ``nano.towers`` has taught them
and, with ``--frozen``, leaves it as it is. ``OUT/mix.json`` is read before every step, so that what lags can
be given more: ``{"text": 3, "picture": 3, "sound": 0.5}`` small batches of each kind, a half in every second
step; ``minutes``, ``easy``, ``frozen``, ``rounding`` and ``lr`` as the options.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as processes
from nano.batch import Encoder
from nano.config import build_model, load_weights
from nano.fast import Packed, working_copy
from nano.muon import Muon
from nano.packed import LENGTH, ROWS, SMALL_PICTURE, arrange, row_blocks
from nano.rounding import quantized_later, rounded
from nano.speech import Voices
from nano.tasks import Mix
from nano.tokenizer import train as train_tokenizer
from nano.towers import PARTS, load_towers
from nano.train import export_checkpoint

MIX: dict[str, float] = {"text": 1, "picture": 2, "sound": 1, "clip": 0.5, "large": 0.5}
LARGE_PICTURE = 280
LONG_ROWS = {"clip", "large"}  # half as many rows, twice as long
LONGEST_STEP_S = 10.0  # more is time in which the processes were stopped
FIELDS = ("loss", "right", "tokens", "batches", "seconds", "making")


class Shared:
    """What the processes have in common: weights, one gradient sum each, the step's list, figures."""

    def __init__(self, model: Any, n: int) -> None:
        parameters = [weight for weight in model.parameters()]
        total = sum(weight.numel() for weight in parameters)
        self.weights = torch.cat([weight.detach().reshape(-1) for weight in parameters]).share_memory_()
        self.gradients = torch.zeros(n, total).share_memory_()
        self.todo = torch.full((64,), -1, dtype=torch.int64).share_memory_()  # kind numbers
        self.figures = torch.zeros(n, len(MIX), len(FIELDS), dtype=torch.float64).share_memory_()
        # step, easy, rounding, frozen, stop
        self.settings = torch.zeros(5, dtype=torch.float64).share_memory_()
        context = processes.get_context("spawn")
        self.next = context.Value("i", 0)
        self.begin, self.end = context.Barrier(n), context.Barrier(n)


class Worker:
    """One process: makes small batches and adds up their gradients."""

    def __init__(self, number: int, options: argparse.Namespace, shared: Shared) -> None:
        torch.set_num_threads(1)
        self.number, self.options, self.shared = number, options, shared
        self.encoder = Encoder(options.out / "tokenizer.json")
        self.mix = Mix(Voices.load(options.words, held_out=False))
        self.model = build_model(options.seed)
        self.work = working_copy(self.model).train()
        self.packed = Packed(self.work, options.compiled)
        self.pairs = list(zip(self.model.parameters(), self.work.parameters(), strict=True))
        names = {id(weight) for weight in quantized_later(self.work)}
        self.quantized = [id(weight) in names for _, weight in self.pairs]
        parts = tuple(part for tower in PARTS.values() for part in tower)
        self.towers = [w for name, w in self.work.named_parameters() if any(part in name for part in parts)]

    @torch.no_grad()
    def take_weights(self, rounding: bool) -> None:
        """The shared weights in bfloat16, as Q4_K will keep them if asked."""
        at = 0
        for (_, weight), quantized in zip(self.pairs, self.quantized, strict=True):
            value = self.shared.weights[at : at + weight.numel()].view_as(weight)
            weight.copy_(rounded(value) if rounding and quantized else value)
            weight.grad = None
            at += weight.numel()

    @torch.no_grad()
    def give_gradients(self) -> None:
        """Adds the gradients of one small batch to this process's sum."""
        total, at = self.shared.gradients[self.number], 0
        for _, weight in self.pairs:
            if weight.grad is not None:
                total[at : at + weight.numel()] += weight.grad.reshape(-1)
                weight.grad = None
            at += weight.numel()

    def step(self) -> None:
        """Takes small batches until none is left."""
        step, easy, rounding, frozen, _ = self.shared.settings.tolist()
        self.mix.easy = bool(easy)
        for weight in self.towers:
            weight.requires_grad_(not frozen)
        self.take_weights(bool(rounding))
        self.shared.gradients[self.number].zero_()
        while True:
            with self.shared.next.get_lock():
                index = self.shared.next.value
                self.shared.next.value += 1
            number = int(self.shared.todo[index])
            if number < 0:
                return
            kind = list(MIX)[number]
            begin = time.process_time()
            rng = random.Random(f"{self.options.seed}/{int(step)}/{index}")
            small = easy and rng.random() < self.options.small
            self.mix.image_tokens = LARGE_PICTURE if kind == "large" else SMALL_PICTURE if small else 70
            draw = {"text": self.mix.texts, "sound": self.mix.sounds, "clip": self.mix.clips}.get(
                kind, self.mix.pictures
            )
            rows, length = (ROWS // 2, LENGTH * 2) if kind in LONG_ROWS else (ROWS, LENGTH)
            made = arrange(row_blocks(self.encoder, rng, draw, rows, length), rows, length)
            batch = {name: torch.from_numpy(value) for name, value in made.items()}
            making = time.process_time() - begin
            loss, right = self.packed.loss(batch)
            loss.backward()
            self.give_gradients()
            self.shared.figures[self.number, number] += torch.tensor(
                [float(loss.detach()), float(right.sum()), len(right), 1, time.process_time() - begin, making]
            )


def serve(number: int, options: argparse.Namespace, shared: Shared) -> None:
    """Another process than the first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = Worker(number, options, shared)
    while True:
        shared.begin.wait()
        if shared.settings[4]:
            return
        worker.step()
        shared.end.wait()


class Trainer:
    """The first process: schedule, optimizers, files."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.model = build_model(options.seed)
        self.step, self.seconds, self.file = 0, 0.0, options.out / "cores.pt"
        if self.file.is_file():
            state = torch.load(self.file, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.step, self.seconds = state["step"], state["seconds"]
            print(f"resumed at step {self.step}, {self.seconds / 60:.1f} minutes", flush=True)
        elif options.start is not None:
            load_weights(self.model, options.start)
        if self.step == 0 and options.towers is not None:
            print(f"took {load_towers(self.model, options.towers)} tensors of towers", flush=True)
        self.first = self.step
        self.shared = Shared(self.model, options.processes)
        at = 0
        for weight in self.model.parameters():  # the model's weights live in the shared memory
            n = weight.numel()
            weight.data = self.shared.weights[at : at + n].view_as(weight)
            at += n
        inner = [w for name, w in self.model.named_parameters() if w.ndim == 2 and ".layers." in name]
        known = {id(weight) for weight in inner}
        others = [weight for weight in self.model.parameters() if id(weight) not in known]
        self.optimizers = [
            Muon(inner, lr=options.lr, weight_decay=0.02),
            torch.optim.AdamW(others, lr=options.lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.sums = torch.zeros(len(MIX), len(FIELDS), dtype=torch.float64)

    @property
    def progress(self) -> float:
        """How much of the schedule is done, 0 to 1."""
        return min(1.0, self.seconds / (60 * self.options.minutes))

    def rate(self) -> float:
        """Learning rate: warm-up, a plateau, then straight down to a fiftieth over the last part."""
        low = self.options.lr / 50
        left = min(1.0, (1.0 - self.progress) / self.options.decay)
        rate = low + (self.options.lr - low) * left
        return rate * min(1.0, (self.step - self.first + 1) / self.options.warmup)

    def plan(self) -> None:
        """Writes the list of this step, costly kinds first."""
        counts = dict(MIX)
        file = self.options.out / "mix.json"
        if file.is_file():
            counts |= json.loads(file.read_text(encoding="utf-8"))
        for name in ("minutes", "easy", "frozen", "rounding", "lr"):
            setattr(self.options, name, counts.pop(name, getattr(self.options, name)))
        order = []
        for kind in ("large", "clip", "picture", "sound", "text"):
            due = int(counts[kind] * (self.step + 1)) - int(counts[kind] * self.step)
            order += [kind] * due
        kinds = list(MIX)
        self.shared.todo.fill_(-1)
        for index, kind in enumerate(order):
            self.shared.todo[index] = kinds.index(kind)
        self.shared.next.value = 0
        self.n_todo = max(1, len(order))
        easy, rounding = self.progress < self.options.easy, self.progress >= self.options.rounding
        frozen = self.progress < self.options.frozen
        self.shared.settings[:4] = torch.tensor([self.step, easy, rounding, frozen])

    @torch.no_grad()
    def update(self) -> None:
        """One step of the optimizers on the mean gradient."""
        mean = self.shared.gradients.sum(0) / self.n_todo
        mean *= min(1.0, 1.0 / (float(mean.norm()) + 1e-6))
        at = 0
        for weight in self.model.parameters():
            weight.grad = mean[at : at + weight.numel()].view_as(weight)
            at += weight.numel()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate()
            optimizer.step()
        self.step += 1

    def report(self) -> dict[str, Any]:
        """Means since the last report."""
        figures = self.shared.figures.sum(0)
        self.shared.figures.zero_()
        entry: dict[str, Any] = {"step": self.step, "minutes": round(self.seconds / 60, 2), "lr": self.rate()}
        for kind, row in zip(MIX, figures.tolist(), strict=True):
            loss, right, tokens, n, seconds, making = row
            if n:
                entry[kind] = round(loss / n, 4)
                entry[kind + "_right"] = round(right / tokens, 4)
                entry[kind + "_s"] = round(seconds / n, 3)
                entry[kind + "_making_s"] = round(making / n, 3)
        return entry

    def save(self) -> None:
        """Writes ``cores.pt`` whole or not at all."""
        state = {"model": self.model.state_dict(), "step": self.step, "seconds": self.seconds}
        torch.save(state, self.file.with_suffix(".tmp"))
        os.replace(self.file.with_suffix(".tmp"), self.file)


def run(options: argparse.Namespace) -> None:
    """Trains until the schedule ends or a signal comes."""
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer_json = options.out / "tokenizer.json"
    if not tokenizer_json.is_file():
        if options.start is not None:
            tokenizer_json.write_bytes((options.start / "tokenizer.json").read_bytes())
        else:
            train_tokenizer(Voices.load(options.words, held_out=False)).save(str(tokenizer_json))
    trainer = Trainer(options)
    shared = trainer.shared
    stop: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: stop.append(received))
    context = processes.get_context("spawn")
    others = [context.Process(target=serve, args=(n, options, shared)) for n in range(1, options.processes)]
    for process in others:
        process.start()
    worker = Worker(0, options, shared)
    saved_at = exported_at = time.monotonic()
    with (options.out / "log.jsonl").open("a", encoding="utf-8") as log:
        while trainer.progress < 1.0 and not stop:
            while options.pause_file is not None and options.pause_file.exists() and not stop:
                time.sleep(2)
            begin = time.monotonic()
            trainer.plan()
            shared.begin.wait()
            worker.step()
            shared.end.wait()
            trainer.update()
            trainer.seconds += min(LONGEST_STEP_S, time.monotonic() - begin)
            if trainer.step % options.log_every == 0:
                entry = trainer.report()
                log.write(json.dumps(entry) + "\n")
                log.flush()
                print(json.dumps(entry), flush=True)
            if time.monotonic() - saved_at > 60 * options.save_minutes:
                trainer.save()
                saved_at = time.monotonic()
            if time.monotonic() - exported_at > 60 * options.export_minutes:
                export_checkpoint(trainer.model, options, trainer.step)
                exported_at = time.monotonic()
    shared.settings[4] = 1
    shared.begin.wait()
    for process in others:
        process.join()
    trainer.save()
    export_checkpoint(trainer.model, options, trainer.step)


def main(arguments: Iterable[str] | None = None) -> None:
    """``python -m nano.train_cores --out OUT``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--words", type=Path, help="cache of nano.speech (default OUT/words.npz)")
    parser.add_argument("--minutes", type=float, default=110.0, help="length of the schedule")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--warmup", type=int, default=100, help="steps after every start")
    parser.add_argument("--decay", type=float, default=0.5, help="share of the schedule with a falling rate")
    parser.add_argument("--easy", type=float, default=0.4, help="share of the schedule with easy scenes")
    parser.add_argument("--small", type=float, default=0.8, help="share of easy pictures at budget 16")
    parser.add_argument("--rounding", type=float, default=0.8, help="share before Q4_K rounding")
    parser.add_argument("--towers", type=Path, help="where nano.towers wrote what it taught")
    parser.add_argument("--frozen", type=float, default=0.0, help="share before the towers learn, too")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=Path, help="checkpoint whose weights and tokenizer to go on from")
    parser.add_argument("--pause-file", type=Path, help="wait while this file exists")
    parser.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--log-every", type=int, default=20)
    parser.add_argument("--save-minutes", type=float, default=5.0)
    parser.add_argument("--export-minutes", type=float, default=20.0)
    options = parser.parse_args(arguments)
    options.words = options.words or options.out / "words.npz"
    run(options)


if __name__ == "__main__":
    main()
