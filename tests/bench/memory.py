"""Memory while answering, and speed: a Session against llama-cpp-python's Llama, on one model, in one run.

    python tests/bench/memory.py MODEL.gguf [--ctx 4096] [--prompt 256] [--tokens 48] [--rounds 5]

Three processes hold the model: a Session, a Session that keeps all pages (release_pages=False), and Llama.
They answer the same prompt in turns, round by round, so that whatever else the machine does meets all three.
While one answers, its resident memory is read every few milliseconds; the figure is the largest ever seen.
Speed is in tokens per second after the first token; ratios are medians of the ratios within a round. The
first round warms up. Bytes are decimal (1 GB = 10^9). The result goes to standard output as JSON. For Linux
and macOS.
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
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

ENGINES = ("session", "session_keeping_pages", "llama_cpp_python")
SEED = 1
SAMPLE_SECONDS = 0.005


def main() -> None:
    options = _arguments()
    if options.child:
        _child(options)
        return
    engines = {name: Engine(name, options) for name in ENGINES}
    prompt = engines["session"].call({"do": "prompt", "n": options.prompt})
    rounds: list[dict[str, dict[str, float]]] = []
    for _ in range(options.rounds + 1):
        rounds.append({name: engine.answer(prompt, options.tokens) for name, engine in engines.items()})
        print(rounds[-1], file=sys.stderr)
    for engine in engines.values():
        engine.close()
    print(json.dumps(_result(options, engines, rounds[1:], len(prompt["ids"])), indent=2))


def _result(
    options: argparse.Namespace, engines: dict[str, Engine], rounds: list[dict[str, Any]], n_prompt: int
) -> dict[str, Any]:
    def median(name: str, key: str) -> float:
        return round(statistics.median(measured[name][key] for measured in rounds), 3)

    def ratio(other: str, key: str) -> float:
        return round(statistics.median(m["session"][key] / m[other][key] for m in rounds), 4)

    found = {
        name: {
            "rss_loaded": engine.rss_loaded,
            "rss_answering": engine.rss_answering,
            "decode_tokens_per_s": median(name, "decode"),
            "prompt_tokens_per_s": median(name, "prompt"),
        }
        for name, engine in engines.items()
    }
    ratios = {
        f"{key}_against_{other}": ratio(other, key) for other in ENGINES[1:] for key in ("decode", "prompt")
    }
    peer = engines["llama_cpp_python"].rss_answering
    return {
        **found,
        "rss_ratio": round(engines["session"].rss_answering / peer, 4),
        **ratios,
        "n_ctx": options.ctx,
        "prompt_tokens": n_prompt,
        "tokens": options.tokens,
        "rounds": options.rounds,
        "threads": options.threads,
        "model": Path(options.model).name,
        "model_bytes": Path(options.model).stat().st_size,
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": {name: version(name) for name in ("gemma4-gguf", "llama-cpp-python")},
    }


class Engine:
    """A process that holds the model, told what to do line by line.

    Args:
        name: one of ENGINES.
        options: of this script.
    """

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), options.model, "--child", name]
        command += ["--ctx", str(options.ctx), "--threads", str(options.threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.call({"do": "load"})
        self.rss_loaded = resident_bytes(self._process.pid)
        self.rss_answering = 0

    def answer(self, prompt: dict[str, Any], n_tokens: int) -> dict[str, float]:
        """One round: tokens per second of the prompt and of what follows it."""
        with self._watched():
            first, token = self.call({"do": "answer", "prompt": prompt, "n": n_tokens})["seconds"]
        return {"prompt": len(prompt["ids"]) / first, "decode": 1 / token}

    def call(self, request: dict[str, Any]) -> dict[str, Any]:
        """Sends a request and waits for the reply."""
        if self._process.stdin is None or self._process.stdout is None:
            raise SystemExit("The child has no pipes.")
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"A child ended with code {self._process.wait()}.")
        return dict(json.loads(line))

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        done = threading.Event()

        def watch() -> None:
            while not done.wait(SAMPLE_SECONDS):
                self.rss_answering = max(self.rss_answering, resident_bytes(self._process.pid))

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def resident_bytes(pid: int) -> int:
    """Resident memory of a process, shared pages of files included."""
    if sys.platform == "linux":
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(pid)])) * 1024


# In the children


def _child(options: argparse.Namespace) -> None:
    sys.stdin.readline()
    engine = Peer(options) if options.child == "llama_cpp_python" else Own(options)
    _say({})
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "prompt" and isinstance(engine, Own):
            _say(engine.make_prompt(request["n"]))
        else:
            _say({"seconds": engine.answer(request["prompt"], request["n"])})


class Own:
    """A Session, with or without the pages of its file."""

    def __init__(self, options: argparse.Namespace) -> None:
        from gemma4_gguf import Session

        self._session = Session(
            options.model,
            projector=None,
            device="cpu",
            n_ctx=options.ctx,
            n_threads=options.threads,
            release_pages=options.child != "session_keeping_pages",
        )
        special = self._session.facts.special_tokens.values()
        self._ends = {i: -1e9 for i in special if self._session.engine.model.ends_reply(i)}

    def make_prompt(self, n: int) -> dict[str, Any]:
        """A prompt of at least n tokens, of made-up words so that few tokens occur twice."""
        words, text = random.Random(SEED), ""
        while len(ids := self._ids(text)) < n:
            text += "".join(words.choices("aeiounrstlm", k=words.randrange(2, 8))) + " "
        return {"text": text, "ids": ids}

    def answer(self, prompt: dict[str, Any], n_tokens: int) -> tuple[float, float]:
        """Seconds to the first token, and per token after it."""
        self._ask("!", 1)  # another prompt, so that the last round leaves nothing to reuse
        first = self._ask(prompt["text"], 1)
        # Of the same prompt only the last token is decoded again: n_tokens single decodes.
        return first, self._ask(prompt["text"], n_tokens) / n_tokens

    def _ask(self, text: str, n_tokens: int) -> float:
        start = time.perf_counter()
        reply = self._session.ask(text, max_tokens=n_tokens, seed=SEED, logit_bias=self._ends)
        if reply.usage.completion_tokens != n_tokens:
            raise SystemExit(f"The session drew {reply.usage.completion_tokens} tokens, not {n_tokens}.")
        return time.perf_counter() - start

    def _ids(self, text: str) -> list[int]:
        items = self._session.prompt([{"role": "user", "content": text}]).items
        return [item for item in items if isinstance(item, int)]


class Peer:
    """llama-cpp-python's Llama as it comes."""

    def __init__(self, options: argparse.Namespace) -> None:
        from llama_cpp import Llama

        self._llama = Llama(
            options.model,
            n_ctx=options.ctx,
            n_threads=options.threads,
            n_gpu_layers=0,
            seed=SEED,
            verbose=False,
        )

    def answer(self, prompt: dict[str, Any], n_tokens: int) -> tuple[float, float]:
        """Seconds to the first token, and per token after it."""
        self._llama.reset()
        start = time.perf_counter()
        tokens = self._llama.generate(prompt["ids"], top_k=64, top_p=0.95, temp=1.0)
        marks = [time.perf_counter() - start for _ in zip(range(n_tokens + 1), tokens, strict=False)]
        return marks[0], (marks[-1] - marks[0]) / n_tokens


def _say(reply: dict[str, Any]) -> None:
    print(json.dumps(reply), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("--ctx", type=int, default=4096, metavar="N", help="tokens of context (4096)")
    parser.add_argument("--prompt", type=int, default=256, metavar="N", help="tokens of the prompt (256)")
    parser.add_argument("--tokens", type=int, default=48, metavar="N", help="tokens per answer (48)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds that count (5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="CPU threads (all)")
    parser.add_argument("--child", choices=ENGINES, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
