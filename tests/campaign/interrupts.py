"""Every command, interrupted at random moments: a short line and an exit code, and nothing is left behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from hub_server import Hub, serve

NANO = Path(__file__).resolve().parents[2] / "gemma4_gguf/nano"
MOMENTS = 12

# Command → seconds within which it is interrupted: about what it takes. DIR is the folder of the case.
COMMANDS: dict[str, float] = {
    "--help": 0.6,
    "config": 0.6,
    "devices": 1.2,
    "inspect MODEL": 1.2,
    "quantize BF16 Q4_K_M -o DIR": 2.5,
    "convert NANO -o DIR": 3,
    "pull org/nano-GGUF": 2,
    "ask MODEL tell --max-tokens 300": 3,
    "ask MODEL detect --image PICTURE --json": 3,
    "chat MODEL": 4,
    "detect PICTURE circle -m MODEL -o DIR/x.png": 3,
    "describe PICTURE -m MODEL": 3,
    "transcribe SOUND -m MODEL -o DIR/x.srt": 3,
    "demo": 5,
    "doctor": 6,
}
# How it is interrupted: the signal, and the seconds before each time it is sent.
WAYS = (("SIGINT", (0,)), ("SIGINT", (0, 0.1)), ("SIGTERM", (0,)))
COUNT = len(COMMANDS) * MOMENTS


class Shared(NamedTuple):
    """What all cases have."""

    words: dict[str, str]
    environment: dict[str, str]
    start_s: float
    server: ExitStack


def prepare(folder: Path) -> Shared:
    """Model files, a hub, and how long an empty Python takes: nobody can answer a signal before that."""
    from gemma4_gguf.convert import convert_checkpoint
    from gemma4_gguf.demo import convert

    signal.signal(signal.SIGINT, signal.default_int_handler)  # which jobs in the background ignore
    files = convert(folder / "nano")
    wide = convert_checkpoint(NANO, folder / "wide", "BF16", None).model
    hub = Hub({"org/nano-GGUF": {path.name: path.read_bytes() for path in (files.model, files.projector)}})
    stack = ExitStack()  # whoever drops it closes the server
    server = stack.enter_context(serve(hub))
    words = {
        "MODEL": str(files.model),
        "BF16": str(wide),
        "NANO": str(NANO),
        "PICTURE": str(NANO / "samples/scene2.png"),
        "SOUND": str(next((NANO / "samples").glob("*.wav"))),
    }
    offline = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": server.endpoint, "OMP_WAIT_POLICY": "passive"}
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import re, signal"], check=True)
    return Shared(words, {**os.environ, **offline}, 3 * (time.monotonic() - start), stack)


def attempt(case: int, shared: Shared, folder: Path) -> str:
    """Starts a command, interrupts it, and looks at what it says and leaves."""
    draw = random.Random(case)
    command, span_s = list(COMMANDS.items())[case // MOMENTS]
    name, pauses_s = WAYS[case % len(WAYS)]
    number = getattr(signal, name)
    (folder / "out").mkdir()
    (folder / "tmp").mkdir()
    words = [shared.words.get(word, word.replace("DIR", str(folder / "out"))) for word in command.split()]
    process = subprocess.Popen(
        [sys.executable, "-m", "gemma4_gguf", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**shared.environment, "TMPDIR": str(folder / "tmp"), "HF_HUB_CACHE": str(folder / "cache")},
        start_new_session=True,
    )
    if command.startswith("chat"):
        assert process.stdin is not None
        process.stdin.write(b"Hello\nTell me more\n" * 20)
        process.stdin.flush()
        process.stdin = None
    time.sleep(shared.start_s + draw.uniform(0, span_s))
    for pause_s in pauses_s:
        time.sleep(pause_s)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
    _, told = process.communicate(timeout=9)
    return _judged(process.returncode, number, told.decode("utf-8", "replace"), folder)


def _judged(code: int, number: int, told: str, folder: Path) -> str:
    if any(word in told for word in ("Traceback", "Exception", "Error", "bug:")):
        raise AssertionError(f"it says {told[-2000:]}")
    if code == 0:
        return "done before"
    if code != 128 + number:
        raise AssertionError(f"exit code {code}: {told[-2000:]}")
    left = [str(path.relative_to(folder)) for name in ("out", "tmp") for path in (folder / name).rglob("*")]
    if left and "What was done is in" not in told:
        raise AssertionError(f"it leaves {left}")
    if told.rstrip().rpartition("\n")[2] not in ("Interrupted.", "Terminated."):
        raise AssertionError(f"its last words are {told[-200:]!r}")
    return str(code)
