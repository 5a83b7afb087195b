"""Time the replies of a Session against a bare llama_decode loop, on one model, in one run.

    python tests/bench/decode.py MODEL.gguf [--tokens 64] [--rounds 5] [--threads N]

Both draw with the same chain (top-k 64, top-p 0.95, temperature 1, one seed) after the same prompt, in
turns, from one copy of the weights. The bare loop is llama_decode and llama_sampler_sample and nothing
else: no text, no thoughts, no stop, no ban on reserved tokens. Tokens per second are those after the first
token; ratios are of medians. The result goes to standard output as JSON. Make sure nothing else is running.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gemma4_gguf import Session, __version__
from gemma4_gguf.cpu_cores import physical_cores
from gemma4_gguf.engine import library
from gemma4_gguf.engine.compute_thread import compute

PROMPT = "Tell me a long story about a lighthouse."
N_CTX = 2048
SEED = 1


def main() -> None:
    options = _arguments()
    threads = options.threads or physical_cores()
    with Session(
        options.model, projector=None, n_ctx=N_CTX, n_threads=threads, device=options.device
    ) as session:
        bare = BareLoop(session, threads)
        loops: dict[str, Callable[[int], None]] = {
            "session": lambda n: _reply(session, n),
            # On the same thread: two teams of OpenMP threads would slow each other down.
            "bare": lambda n: compute(lambda: bare.run(n), lambda: None),
        }
        seconds: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(options.rounds + 1):
            for name, loop in loops.items():
                seconds[name].append(per_token(loop, options.tokens))
        bare.close()
    rates = {name: 1 / statistics.median(times[1:]) for name, times in seconds.items()}  # the first warms up
    spread = {
        name: [round(1 / t, 3) for t in sorted(times[1:], reverse=True)] for name, times in seconds.items()
    }
    result = {
        "session_tokens_per_s": round(rates["session"], 3),
        "bare_tokens_per_s": round(rates["bare"], 3),
        "ratio": round(rates["session"] / rates["bare"], 4),
        "rounds": spread,
        "tokens": options.tokens,
        "threads": threads,
        "device": options.device,
        "model": Path(options.model).name,
        "model_bytes": Path(options.model).stat().st_size,
        "machine": f"{platform.machine()} {platform.processor()}".strip(),
        "versions": {"gemma4-gguf": __version__, "llama-cpp-python": version("llama-cpp-python")},
    }
    print(json.dumps(result, indent=2))


def per_token(loop: Callable[[int], None], n: int) -> float:
    """Seconds per token after the first, by the difference of a short and a long run."""
    times = []
    for n_tokens in (1, n + 1):
        start = time.perf_counter()
        loop(n_tokens)
        times.append(time.perf_counter() - start)
    return (times[1] - times[0]) / n


def _reply(session: Session, n_tokens: int) -> None:
    ends = {i: -1e9 for i in session.facts.special_tokens.values() if session.engine.model.ends_reply(i)}
    reply = session.ask(PROMPT, max_tokens=n_tokens, seed=SEED, logit_bias=ends)
    if reply.usage.completion_tokens != n_tokens:
        raise SystemExit(f"The session drew {reply.usage.completion_tokens} tokens, expected {n_tokens}.")


class BareLoop:
    """What the bindings alone take.

    Args:
        session: whose weights are used.
        threads: CPU threads.
    """

    def __init__(self, session: Session, threads: int) -> None:
        self._lib: Any = library.llama()
        params = self._lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.swa_full = N_CTX, 512, 512, False
        params.n_threads = params.n_threads_batch = threads
        self._context = self._lib.llama_init_from_model(session.engine.model.handle, params)
        items = session.prompt([{"role": "user", "content": PROMPT}]).items
        self._prompt = [item for item in items if isinstance(item, int)]

    def run(self, n_tokens: int) -> None:
        """Decodes the prompt and draws so many tokens."""
        lib, context = self._lib, self._context
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        sampler = self._sampler()
        ids = (lib.llama_token * len(self._prompt))(*self._prompt)
        self._decode(ids, len(self._prompt))
        token = (lib.llama_token * 1)(lib.llama_sampler_sample(sampler, context, -1))
        for _ in range(n_tokens - 1):
            self._decode(token, 1)
            token[0] = lib.llama_sampler_sample(sampler, context, -1)
        lib.llama_sampler_free(sampler)

    def close(self) -> None:
        """Frees the context."""
        self._lib.llama_free(self._context)

    def _decode(self, ids: Any, n: int) -> None:
        if code := self._lib.llama_decode(self._context, self._lib.llama_batch_get_one(ids, n)):
            raise SystemExit(f"llama_decode returned {code}")

    def _sampler(self) -> Any:
        lib = self._lib
        sampler = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for stage in (
            lib.llama_sampler_init_top_k(64),
            lib.llama_sampler_init_top_p(0.95, 1),
            lib.llama_sampler_init_temp(1.0),
            lib.llama_sampler_init_dist(SEED),
        ):
            lib.llama_sampler_chain_add(sampler, stage)
        return sampler


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="tokens per round (64)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds of each (5)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (all cores)")
    parser.add_argument("--device", default="cpu", help="where the layers run (cpu)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
