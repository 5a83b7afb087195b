"""Answering beside another program: a Session against llama-cpp-python's Llama, on one model, in one run.

    python tests/bench/busy.py MODEL.gguf [--hogs 1] [--tokens 16] [--rounds 2] [--threads N]

So many processes keep a core busy each, as a build, a call or a browser does. Two processes hold the model
and answer in turns, both on all cores; the one that waits sleeps. Tokens per second are those after the
first. The result goes to standard output as JSON. Make sure nothing else is running. For Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from memory import Engine

ENGINES = ("session", "llama_cpp_python")


def main() -> None:
    options = _arguments()
    engines = {name: Engine(name, options) for name in ENGINES}
    prompt = engines["session"].call({"do": "prompt", "n": 1})
    quiet = {name: engine.answer(prompt, options.tokens) for name, engine in engines.items()}
    busy = "while True: pass"
    # In sessions of their own: Linux shares cores between terminals first, whatever the priorities within.
    hogs = [
        subprocess.Popen([sys.executable, "-c", busy], start_new_session=True) for _ in range(options.hogs)
    ]
    try:
        rounds = [
            {name: engine.answer(prompt, options.tokens)["decode"] for name, engine in engines.items()}
            for _ in range(options.rounds)
        ]
    finally:
        for hog in hogs:
            hog.kill()
    for engine in engines.values():
        engine.close()
    rates = {name: statistics.median(measured[name] for measured in rounds) for name in ENGINES}
    result = {
        "tokens_per_s_beside_others": {name: round(rate, 3) for name, rate in rates.items()},
        "tokens_per_s_alone": {name: round(quiet[name]["decode"], 3) for name in ENGINES},
        "ratio": round(rates["session"] / rates["llama_cpp_python"], 2),
        "hogs": options.hogs,
        "threads": options.threads,
        "rounds": rounds,
        "tokens": options.tokens,
        "model": Path(options.model).name,
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": {name: version(name) for name in ("gemma4-gguf", "llama-cpp-python")},
    }
    print(json.dumps(result, indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("--hogs", type=int, default=1, metavar="N", help="busy processes (1)")
    parser.add_argument("--ctx", type=int, default=1024, metavar="N", help="tokens of context (1024)")
    parser.add_argument("--tokens", type=int, default=16, metavar="N", help="tokens per answer (16)")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="rounds of each (2)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="CPU threads (all)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
