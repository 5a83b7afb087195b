"""Thousands of damaged inputs, each tried in a child process with bounds on time and memory.

A subject is a module `campaign/<subject>.py` with

    COUNT: how many cases there are.
    prepare(folder: Path) -> Any: what all cases share, made once in each child.
    attempt(case: int, shared: Any, folder: Path) -> str: makes the damaged input number `case`, gives it
        to the product and says in a few words what came of it. Only errors that the product promises
        (Gemma4Error) may leave it; the folder is new and empty for every case.

and `campaign/test_campaign.py` runs it. A case depends on its number alone: in `tests/`,
`python -m campaign.harness gguf 137` tries that one again, in this process. GEMMA4_GGUF_CAMPAIGN=0.1 tries a
tenth of the cases, spread evenly.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import resource
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from gemma4_gguf.errors import Gemma4Error

TESTS = Path(__file__).resolve().parents[1]
CASE_S = 10.0
START_S = 120.0  # importing, and what the cases share
MEMORY_BYTES = 2 << 30
POLL_S = 0.05
CHILDREN = 2


@dataclass
class Outcome:
    """What came of the cases of a subject.

    Attributes:
        tried: number of cases.
        kinds: how many came to which end: the type of the error, or what the subject said.
        faults: case -> what must not happen: a death, a hang, too much memory, an error without a type.
    """

    tried: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    faults: dict[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.tried} cases: " + ", ".join(f"{n} {kind}" for kind, n in self.kinds.most_common())]
        lines += [f"case {case}: {fault}" for case, fault in sorted(self.faults.items())[:40]]
        return "\n".join(lines)


def run(subject: str) -> Outcome:
    """Tries all cases of a subject, or the share of them that GEMMA4_GGUF_CAMPAIGN asks for.

    Args:
        subject: name of a module in this folder.
    """
    count = importlib.import_module(f"campaign.{subject}").COUNT
    wanted = max(1, round(count * float(os.environ.get("GEMMA4_GGUF_CAMPAIGN", "1"))))
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(wanted):
        waiting.put(number * count // wanted)
    outcome = Outcome(tried=wanted)
    with tempfile.TemporaryDirectory(prefix="campaign-") as name:
        workers = [
            threading.Thread(target=_work, args=(subject, waiting, outcome, Path(name) / str(number)))
            for number in range(CHILDREN)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    return outcome


def _work(subject: str, waiting: queue.SimpleQueue[int], outcome: Outcome, folder: Path) -> None:
    """Gives cases to a child; a child that dies, hangs or swells is replaced."""
    child: _Child | None = None
    while True:
        try:
            case = waiting.get_nowait()
        except queue.Empty:
            break
        if child is None:
            child = _Child(subject, folder)
        kind, fault = child.attempt(case)
        outcome.kinds[kind] += 1
        if fault:
            outcome.faults[case] = fault
        if not child.alive:
            child = None
    if child is not None:
        child.stop()


class _Child:
    """A process that tries one case after the other."""

    def __init__(self, subject: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._words = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it lives as long as the child
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "campaign.harness", subject],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            cwd=TESTS,
            env={
                **os.environ,
                "GGML_NO_BACKTRACE": "1",
                "TMPDIR": str(folder),
                "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS / 'helpers'}",
            },
            text=True,
        )
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()
        self.alive = True
        ready, _ = self._await(START_S)
        if ready is None:
            raise RuntimeError(f"the campaign's child did not start: {self._last_words()}")

    def attempt(self, case: int) -> tuple[str, str]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{case}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died after its last answer, which the wait below sees
        answer, fault = self._await(CASE_S)
        if answer is not None:
            return answer["kind"], answer["fault"]
        self.stop()
        return fault.split(":")[0], f"{fault} {self._last_words()}"

    def stop(self) -> None:
        self.alive = False
        self._process.kill()
        self._process.wait()

    def _await(self, seconds: float) -> tuple[dict[str, str] | None, str]:
        """What the child answered; or nothing, and why."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                line = self._answers.get(timeout=POLL_S)
            except queue.Empty:
                if self._resident() > MEMORY_BYTES:
                    return None, f"memory: over {MEMORY_BYTES >> 30} GB"
                continue
            if line:
                return json.loads(line), ""
            return None, f"death: exit status {self._process.wait()}"
        return None, f"hang: over {seconds:.0f} s"

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            if line.startswith("{"):
                self._answers.put(line)
        self._answers.put("")

    def _resident(self) -> int:
        try:
            pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        except (OSError, IndexError):
            return 0
        return int(pages) * resource.getpagesize()

    def _last_words(self) -> str:
        self._words.seek(0)
        return self._words.read()[-1500:].decode("utf-8", "replace")


def _child(subject: str) -> None:
    """Reads numbers of cases, answers with what came of them."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what anybody prints is no answer
    module = importlib.import_module(f"campaign.{subject}")
    with tempfile.TemporaryDirectory() as name:
        shared = module.prepare(Path(name))
        answers.write('{"kind": "ready"}\n')
        answers.flush()
        for case in _numbers():
            kind, fault = _tried(module, case, shared)
            answers.write(json.dumps({"kind": kind, "fault": fault}) + "\n")
            answers.flush()


def _numbers() -> Iterator[int]:
    for line in sys.stdin:
        yield int(line)


def _tried(module: Any, case: int, shared: Any) -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as name:
        try:
            return module.attempt(case, shared, Path(name)), ""
        except Gemma4Error as error:
            return type(error).__name__, ""
        except BaseException as error:
            return f"untyped {type(error).__name__}", traceback.format_exc()[-2000:]


if __name__ == "__main__":
    if len(sys.argv) == 2:
        _child(sys.argv[1])
    else:
        subject_module = importlib.import_module(f"campaign.{sys.argv[1]}")
        with tempfile.TemporaryDirectory() as place:
            print(
                subject_module.attempt(
                    int(sys.argv[2]), subject_module.prepare(Path(place)), Path(tempfile.mkdtemp())
                )
            )
