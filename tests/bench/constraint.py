"""Time a reply that must be JSON against a free one, here and in llama-cpp-python, on one model, in one run.

    python tests/bench/constraint.py MODEL.gguf [--tokens 48] [--rounds 5] [--threads N] [--no-peer]

The same schema, prompt and sampling chain on both sides: a long list of small objects, so that numbers, names
and punctuation change all the time. With random weights hardly a token that the model likes fits. Seconds per
token are those after the first; ratios are medians of the ratios within a round. The first round warms up.
The time to build what the library knows about the vocabulary is told apart: it is spent once per model file.
The result goes to standard output as JSON. Make sure nothing else is running.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from decode import per_token

from gemma4_gguf import Session, __version__
from gemma4_gguf.cpu_cores import physical_cores
from gemma4_gguf.engine.compute_thread import compute
from gemma4_gguf.engine.guided_sampler import token_table
from gemma4_gguf.errors import IncompleteReplyError

PROMPT = "List the inhabitants of a small town as JSON."
N_CTX = 1024
SEED = 1
SCHEMA: dict[str, Any] = {
    "type": "array",
    "minItems": 1000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "sort": {"enum": ["cat", "dog", "person"]},
            "awake": {"type": "boolean"},
        },
        "required": ["name", "age", "sort", "awake"],
        "additionalProperties": False,
    },
}


def main() -> None:
    options = _arguments()
    threads = options.threads or physical_cores()
    with Session(options.model, projector=None, n_ctx=N_CTX, n_threads=threads) as session:
        start = time.perf_counter()
        token_table(session.engine.model)
        table_s = time.perf_counter() - start
        loops: dict[str, Callable[[int], None]] = {
            "free": lambda n: _reply(session, n, None),
            "json": lambda n: _reply(session, n, SCHEMA),
        }
        if options.peer:
            loops |= _peer(options.model, threads)
        seconds: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(options.rounds + 1):
            for name, loop in loops.items():
                seconds[name].append(per_token(loop, options.tokens))
    result = {
        "json_over_free": _ratio(seconds, "json", "free"),
        "peer_json_over_free": _ratio(seconds, "peer_json", "peer_free") if options.peer else None,
        "json_over_peer_json": _ratio(seconds, "json", "peer_json") if options.peer else None,
        "ms_per_token": {name: round(1000 * statistics.median(t[1:]), 2) for name, t in seconds.items()},
        "rounds": {name: [round(1000 * t, 2) for t in times] for name, times in seconds.items()},
        "vocabulary_table_s": round(table_s, 2),
        "tokens": options.tokens,
        "threads": threads,
        "model": Path(options.model).name,
        "machine": f"{platform.machine()} {platform.processor()}".strip(),
        "versions": {
            "gemma4-gguf": __version__,
            "llama-cpp-python": version("llama-cpp-python"),
            "llguidance": version("llguidance"),
        },
    }
    print(json.dumps(result, indent=2))


def _ratio(seconds: dict[str, list[float]], one: str, other: str) -> float:
    pairs = zip(seconds[one][1:], seconds[other][1:], strict=True)
    return round(statistics.median(a / b for a, b in pairs), 4)


def _reply(session: Session, n_tokens: int, schema: Any) -> None:
    ends = {i: -1e9 for i in session.facts.special_tokens.values() if session.engine.model.ends_reply(i)}
    with suppress(IncompleteReplyError):
        session.ask(PROMPT, max_tokens=n_tokens, seed=SEED, logit_bias=ends, schema=schema)


def _peer(model: str, threads: int) -> dict[str, Callable[[int], None]]:
    """llama-cpp-python's own API, with its own grammar engine and its own converter of schemas."""
    import llama_cpp

    llama = llama_cpp.Llama(model, n_ctx=N_CTX, n_threads=threads, n_threads_batch=threads, verbose=False)
    grammar = llama_cpp.LlamaGrammar.from_json_schema(json.dumps(SCHEMA), verbose=False)
    ends = {i: -1e9 for i in range(llama.n_vocab()) if llama_cpp.llama_vocab_is_eog(llama._model.vocab, i)}

    def run(n_tokens: int, grammar: Any) -> None:
        llama.create_completion(
            PROMPT,
            max_tokens=n_tokens,
            grammar=grammar,
            temperature=1.0,
            top_k=64,
            top_p=0.95,
            min_p=0.0,
            repeat_penalty=1.0,
            seed=SEED,
            logit_bias=ends,
        )

    # On the thread that the session computes on: two teams of OpenMP threads would slow each other down.
    return {
        "peer_free": lambda n: compute(lambda: run(n, None), lambda: None),
        "peer_json": lambda n: compute(lambda: run(n, grammar), lambda: None),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=48, metavar="N", help="tokens per round (48)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds of each (5)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (all cores)")
    parser.add_argument("--peer", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
