"""Many requests to one Session, and how much its memory grows: text, pictures, typed data, streams cut short.

    python tests/bench/soak.py [MODEL.gguf] [--requests 1000] [--warmup 200] [--limit 0.02]

Without a model the bundled checkpoint is converted first. Requests of every kind take turns, all of them
different, so that nothing is only reused. Growth is that of resident memory from the end of the warm-up to
the end, each the median of readings over the last tenth before it; the exit status is 1 above the limit.
The result goes to standard output as JSON. For Linux and macOS.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from gemma4_gguf import Image, Session
from gemma4_gguf.engine import media_encoder
from gemma4_gguf.types import IMAGE_TOKEN_BUDGETS

NANO = Path(__file__).resolve().parents[2] / "gemma4_gguf" / "nano"
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "count": {"type": "integer", "minimum": 0, "maximum": 999},
    },
    "required": ["name", "count"],
}
MAX_TOKENS = 24
# Encoded media are kept up to a limit that this run would never reach: with a smaller one the warm-up does,
# and what grows afterwards is not the cache.
CACHED_BYTES = 1 << 20


def main() -> None:
    options = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or _convert_nano(Path(folder))
        with Session(model, device="cpu", n_ctx=1024, n_seq=2, n_threads=options.threads) as session:
            result = soak(session, options.requests, options.warmup)
    result |= {
        "model": Path(model).name,
        "threads": options.threads,
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": {name: version(name) for name in ("gemma4-gguf", "llama-cpp-python")},
    }
    print(json.dumps(result, indent=2))
    if result["growth"] >= options.limit:
        sys.exit(f"Memory grew by {result['growth']:.2%}, {options.limit:.2%} is the limit.")


def soak(session: Session, n_requests: int, n_warmup: int) -> dict[str, Any]:
    """Sends requests and watches memory.

    Args:
        session: what answers them.
        n_requests: requests that count, at least 10.
        n_warmup: requests before that, at least 10.

    Returns:
        Requests of each kind, seconds, resident bytes before and after, and growth as a share.
    """
    usual, media_encoder.MAX_CACHED_BYTES = media_encoder.MAX_CACHED_BYTES, CACHED_BYTES
    try:
        return _soak(session, n_requests, n_warmup)
    finally:
        media_encoder.MAX_CACHED_BYTES = usual


def _soak(session: Session, n_requests: int, n_warmup: int) -> dict[str, Any]:
    kinds = requests_of(session)
    counts = dict.fromkeys(kinds, 0)
    readings = []
    start = time.perf_counter()
    for i in range(n_warmup + n_requests):
        name = list(kinds)[i % len(kinds)]
        kinds[name](i)
        counts[name] += i >= n_warmup
        readings.append(resident_bytes())
    before = _level(readings[:n_warmup])
    after = _level(readings)
    return {
        "requests": n_requests,
        "kinds": counts,
        "seconds": round(time.perf_counter() - start, 1),
        "rss_before": before,
        "rss_after": after,
        "growth": round(after / before - 1, 5),
    }


def requests_of(session: Session) -> dict[str, Callable[[int], None]]:
    """What a session can be asked, by kind; each call sends the request of that number."""

    def words(i: int) -> str:
        draw = random.Random(i)
        return " ".join(draw.choices(("red", "blue", "circle", "box", "small", "two", "find", "say"), k=20))

    def text(i: int) -> None:
        session.ask(words(i), max_tokens=MAX_TOKENS, seed=i)

    def chat(i: int) -> None:
        talk = session.chat(system="Be brief.")
        for turn in range(2):
            talk.send(f"{words(i)} {turn}", max_tokens=MAX_TOKENS // 2, seed=i)

    def picture(i: int) -> None:
        draw = np.random.default_rng(i)
        size = draw.integers(120, 360, 2)  # no side too long for the smallest projector
        pixels = draw.integers(0, 256, (*size, 3), np.uint8)
        session.ask(Image(pixels, IMAGE_TOKEN_BUDGETS[i % 2]), words(i), max_tokens=MAX_TOKENS, seed=i)

    def typed(i: int) -> None:
        # Long enough to finish whatever is drawn: 8 characters, one number of bounded length.
        session.ask(words(i), schema=SCHEMA, max_tokens=256, temperature=0, seed=i)

    def cancelled(i: int) -> None:
        stream = session.stream(words(i), max_tokens=MAX_TOKENS, seed=i)
        next(stream)
        stream.close()

    kinds = {"text": text, "chat": chat, "picture": picture, "schema": typed, "cancelled": cancelled}
    if not session.has_vision:
        del kinds["picture"]
    return kinds


def resident_bytes() -> int:
    """Resident memory of this process."""
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(os.getpid())])) * 1024


def _level(readings: list[int]) -> int:
    return int(statistics.median(readings[-max(len(readings) // 10, 5) :]))


def _convert_nano(folder: Path) -> Path:
    from gemma4_gguf.convert import convert_checkpoint

    return convert_checkpoint(NANO, folder, "Q4_K_M", "BF16").model


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", help="a GGUF file (the bundled checkpoint)")
    parser.add_argument("--requests", type=int, default=1000, metavar="N", help="requests that count (1000)")
    parser.add_argument("--warmup", type=int, default=200, metavar="N", help="requests before them (200)")
    parser.add_argument("--limit", type=float, default=0.02, metavar="X", help="growth allowed (0.02)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="CPU threads (all)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
