"""Time to the first token of a turn that has a history, against llama-cpp-python's own chat handler.

    python tests/bench/reuse.py MODEL.gguf MMPROJ.gguf [--threads N] [--rounds 3] [--no-picture]

Two cases: the fifth turn of a long chat (about 700 tokens before it), and the second question about one
picture. Both libraries read the same messages from the same file in one process, in turns;
the answers in the history are written, not drawn, so that both have the same. The peer is Llama with
Gemma4ChatHandler, streaming, as its documentation shows; a call of each kind warms up both. Ratios are of
medians. The result goes to standard output as JSON. Make sure nothing else is running.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from gemma4_gguf import Chat, Image, Session, __version__
from gemma4_gguf.cpu_cores import physical_cores
from gemma4_gguf.engine.compute_thread import compute
from gemma4_gguf.engine.sampler import Sampler
from gemma4_gguf.templates import load

N_CTX = 4096
SYSTEM = (
    "You help the keeper of a lighthouse. You know its rooms, its lamp, its boats and the coast around it."
)
STORY = (
    "Last night the wind turned to the west and the sea came up over the lower steps. The lamp went out "
    "twice, once because of the draught from the broken pane on the north side, and once because the oil "
    "was not what the merchant had said it was. I wrote both into the book, with the hour, and I trimmed the "
    "wick. In the morning there were eleven birds below the gallery, two boats had lost their nets, and the "
    "path to the village was under stones. "
)
ANSWER = (
    "Put a board over the broken pane today, and order glass. Filter the oil through cloth before tonight, "
    "and keep what is left of it for the merchant to see. The stones on the path can wait until the wind is "
    "down."
)
QUESTIONS = (
    "What should I do first?",
    "And the nets?",
    "What do I tell the merchant?",
    "What about the birds?",
    "What have I forgotten?",
)


def main() -> None:
    options = _arguments()
    threads = options.threads or physical_cores()
    peer = Peer(options.model, options.projector, threads)
    settings: dict[str, Any] = {"n_ctx": N_CTX, "n_threads": threads, "device": "cpu"}
    cases: dict[str, Any] = {}
    projector = options.projector if options.picture else None
    with Session(options.model, projector=projector, **settings) as session:
        peer.use_template(session.facts.chat_template or load(session.facts.family_size))
        cases["fifth turn of a long chat"] = _measure(options.rounds, _talk(session), peer)
        if options.picture:
            cases["second question about a picture"] = _measure(options.rounds, _look(session), peer)
    result = {
        "cases": cases,
        "threads": threads,
        "model": Path(options.model).name,
        "model_bytes": Path(options.model).stat().st_size,
        "machine": f"{platform.machine()} {platform.processor()}".strip(),
        "versions": {"gemma4-gguf": __version__, "llama-cpp-python": version("llama-cpp-python")},
    }
    json.dump(result, sys.stdout, indent=2)
    sys.stdout.write("\n")


def _measure(rounds: int, ours: Iterator[tuple[float, int, int, list[dict[str, Any]]]], peer: Peer) -> Any:
    """One round warms up and does not count."""
    seconds: dict[str, list[float]] = {"gemma4-gguf": [], "llama-cpp-python": []}
    for _ in range(rounds + 1):
        taken, n_prompt, n_reused, messages = next(ours)
        seconds["gemma4-gguf"].append(taken)
        seconds["llama-cpp-python"].append(peer.first_token(messages))
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    return {
        "ratio": round(medians["gemma4-gguf"] / medians["llama-cpp-python"], 4),
        "seconds": {name: [round(t, 4) for t in times[1:]] for name, times in seconds.items()},
        "prompt_tokens": n_prompt,
        "reused_tokens": n_reused,
    }


# Ours


def _talk(session: Session) -> Iterator[tuple[float, int, int, list[dict[str, Any]]]]:
    number = 0
    while True:
        number += 1  # another conversation each time, after the instructions
        chat = session.chat(system=SYSTEM)
        for i, question in enumerate(QUESTIONS[:-1]):
            _written(session, chat, [f"Night {number}.{i}. {STORY}{question}"])
        yield _first_token(chat, [QUESTIONS[-1]])


def _look(session: Session) -> Iterator[tuple[float, int, int, list[dict[str, Any]]]]:
    number = 0
    while True:
        number += 1
        chat = session.chat()
        _written(session, chat, [Image(_picture(number)), "What is this?"])
        yield _first_token(chat, ["Where is the red one?"])


def _written(session: Session, chat: Chat, parts: Sequence[Any]) -> None:
    """A turn whose answer is given."""
    ids = iter([*session.tokenize(ANSWER), *session.tokenize("<turn|>")])
    with patch.object(Sampler, "draw", lambda *_: next(ids)):
        chat.send(*parts)


def _first_token(chat: Chat, parts: Sequence[Any]) -> tuple[float, int, int, list[dict[str, Any]]]:
    start = time.perf_counter()
    found: dict[str, float] = {}

    draw = Sampler.draw

    def drawn(self: Sampler, handle: Any) -> int:
        token = draw(self, handle)
        found["at"] = time.perf_counter()
        return token

    with patch.object(Sampler, "draw", drawn):
        usage = chat.send(*parts, max_tokens=1).usage
    return (
        found["at"] - start,
        usage.prompt_tokens,
        usage.reused_tokens,
        [_plain(m) for m in chat.messages[:-1]],
    )


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """As OpenAI's API takes it."""
    if isinstance(message["content"], str):
        return message
    parts = []
    for part in message["content"]:
        if part["type"] == "image":
            url = "data:image/png;base64," + base64.b64encode(part["image"].source).decode()
            parts.append({"type": "image_url", "image_url": {"url": url}})
        else:
            parts.append(part)
    return message | {"content": parts}


def _picture(seed: int) -> bytes:
    from PIL import Image as PILImage

    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (6, 8, 3), np.uint8).repeat(80, 0).repeat(80, 1)
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


# The peer


class Peer:
    """Llama with Gemma4ChatHandler.

    Args:
        model: GGUF file.
        projector: its projector, which the handler needs for text as well.
        threads: CPU threads.
    """

    def __init__(self, model: str, projector: str, threads: int) -> None:
        from llama_cpp import Llama
        from llama_cpp.llama_chat_format import Gemma4ChatHandler

        self._llama = Llama(
            model,
            n_ctx=N_CTX,
            n_threads=threads,
            n_threads_batch=threads,
            chat_handler=Gemma4ChatHandler(clip_model_path=projector, verbose=False),
            verbose=False,
        )

    def use_template(self, template: str) -> None:
        """For files without one."""
        self._llama.metadata.setdefault("tokenizer.chat_template", template)

    def first_token(self, messages: list[dict[str, Any]]) -> float:
        """Seconds until the first token of a streamed reply, or its end if that is the first.

        On the thread that the session computes on: two teams of OpenMP threads would slow each other down.
        """
        return compute(lambda: self._first_token(messages), lambda: None)

    def _first_token(self, messages: list[dict[str, Any]]) -> float:
        start = time.perf_counter()
        for chunk in self._llama.create_chat_completion(messages, stream=True, max_tokens=1, temperature=1.0):
            choice = chunk["choices"][0]
            if choice["delta"].get("content") or choice["finish_reason"]:
                return time.perf_counter() - start
        raise SystemExit("The peer answered nothing.")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("projector")
    parser.add_argument("--no-picture", dest="picture", action="store_false", help="only the long chat")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds that count (3)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (all cores)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
