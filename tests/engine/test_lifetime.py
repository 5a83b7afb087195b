"""Opening, closing, forking and ending while llama.cpp is at work: an error at most, never a dead process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nano_samples import scene

from gemma4_gguf import Session
from gemma4_gguf.engine.lifetime import Lifetime, LifetimeLock
from gemma4_gguf.errors import EngineError

LIMIT_S = 60


def run_script(nano: Path, script: str, *, code: int = 0, quiet: bool = True) -> str:
    """Runs a script that may use MODEL in a process of its own, and returns what it printed."""
    head = """
        import os, signal, sys, threading, time
        from gemma4_gguf import Session
        from gemma4_gguf.errors import EngineError
        MODEL = sys.argv[1]
        def opened(**options):
            return Session(MODEL, device="cpu", n_threads=2, **({"n_ctx": 512} | options))
    """
    text = textwrap.dedent(head) + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-c", text, str(nano)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == code and not (quiet and done.stderr), done.stdout + done.stderr
    return done.stdout


# Closing


USES: dict[str, Callable[[Session, Path], Any]] = {
    "tokenize": lambda session, _: session.tokenize("some words " * 50),
    "detokenize": lambda session, _: session.detokenize([5, 6, 7], special=False),
    "embed": lambda session, _: session.embed(scene(0)),
    "logits": lambda session, _: session.logits([2, 5, 6]),
    "ask": lambda session, _: session.ask("Hello", max_tokens=5),
    "picture": lambda session, _: session.ask(scene(0), "detect", max_tokens=5),
    "schema": lambda session, _: session.ask("Hello", schema=["yes", "no"], max_tokens=5),
    "save": lambda session, folder: _chat(session).save(folder / f"{threading.get_ident()}.gguf-chat"),
}


def _chat(session: Session) -> Any:
    chat = session.chat()
    chat.send("Hello", max_tokens=3)
    return chat


@pytest.mark.parametrize("use", USES)
def test_closing_while_others_use_it(use: str, nano: Path, tmp_path: Path) -> None:
    session = Session(nano, device="cpu", n_ctx=512, n_threads=1)
    ends: list[BaseException] = []
    begun = threading.Semaphore(0)

    def work() -> None:
        try:
            while True:
                USES[use](session, tmp_path)
                begun.release()
        except BaseException as error:
            ends.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in threads:
        begun.acquire()
    session.close()
    assert session.engine.model.handle is None, "freed when close returns"
    for thread in threads:
        thread.join()
    assert {type(end) for end in ends} == {EngineError} and {str(end) for end in ends} == {
        "The session is closed. Open it again."
    }


def test_closing_from_a_signal_handler_in_the_middle_of_a_decode(nano: Path) -> None:
    session = Session(nano, device="cpu", n_ctx=2048, n_threads=1)
    kept = signal.signal(signal.SIGALRM, lambda *_: session.close())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(EngineError, match="closed"):
            while True:
                session.logits([2, *range(5, 900)])
    finally:
        signal.signal(signal.SIGALRM, kept)
    assert session.engine.model.handle is None


def test_one_that_waits_for_a_conversation_is_told(nano: Path) -> None:
    session = Session(nano, device="cpu", n_ctx=256, n_threads=1)
    stream = session.stream("Hello")
    next(stream)
    ends: list[BaseException] = []

    def work() -> None:
        try:
            session.ask("Hello")
        except EngineError as error:
            ends.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    session.close()
    thread.join()
    assert "closed" in str(ends[0])


def test_the_last_one_out_frees() -> None:
    import weakref

    class Thing:
        pass

    thing, freed = Thing(), []
    lifetime = Lifetime()
    lifetime.on_close(weakref.finalize(thing, freed.append, 1))
    lifetime.on_close(weakref.finalize(thing, freed.append, 2))
    lock = LifetimeLock(lifetime)
    with lock, lock:
        lifetime.close()
        assert not freed
        with pytest.raises(EngineError, match="closed"), lifetime:
            pass
        assert not freed
    assert freed == [2, 1], "what was made last goes first"
    with pytest.raises(EngineError, match="closed"), lock:
        pass


# Forking

FORKS = """
    import concurrent.futures, multiprocessing, warnings
    warnings.simplefilter("ignore")
    session = opened()
    answer = session.ask("Hello", temperature=0).text
    stream = session.stream("Hello", temperature=0)
    next(stream)

    def refused(use=lambda: session.ask("Hello")):
        try:
            use()
        except EngineError as error:
            return "fork" in str(error)

    def of_its_own():
        with opened() as own:
            return own.ask("Hello", temperature=0).text == answer

    def forked(child):
        pid = os.fork()
        if not pid:
            print(child(), flush=True)
            session.close()
            sys.exit()  # runs what is registered for the end
        assert os.waitpid(pid, 0)[1] == 0

    forked(refused)
    forked(lambda: refused(lambda: list(stream)))
    forked(lambda: refused(lambda: session.tokenize("x")))
    forked(lambda: refused(lambda: session.chat().send("x")))
    forked(of_its_own)
    fork = multiprocessing.get_context("fork")
    with fork.Pool(1) as pool:
        print(pool.apply(refused))
    with concurrent.futures.ProcessPoolExecutor(1, fork) as pool:
        print(pool.submit(of_its_own).result())
    list(stream)
    print(session.ask("Hello", temperature=0).text == answer)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_refused_what_was_open_and_opens_its_own(nano: Path) -> None:
    assert run_script(nano, FORKS) == "True\n" * 8


# The end of the interpreter

EXITS = {
    "end": "",
    "error": "sys.stderr = open(os.devnull, 'w'); raise ValueError",
    "atexit": "import atexit; atexit.register(session.close)",
}
STREAMS = """
    session = opened(n_seq=3)
    n_begun = threading.Semaphore(0)
    def work(session, n):
        while True:
            prompt = "word " * 300 if n == 0 else "Hello"
            for chunk in session.stream(prompt, temperature=1.0, max_tokens=100):
                n_begun.release()
            if n == 2:
                opened().close()
    for n in range(3):
        threading.Thread(target=work, args=(session, n), daemon=True).start()
    for _ in range(6):
        n_begun.acquire()
"""


@pytest.mark.parametrize("how", EXITS)
def test_the_interpreter_ends_while_threads_stream(how: str, nano: Path) -> None:
    script = textwrap.dedent(STREAMS) + EXITS[how]
    said = run_script(nano, script, code=how == "error", quiet=how != "atexit")
    assert not said


# Ctrl-C

INTERRUPTS = """
    import gc, logging
    import numpy as np
    from PIL import Image as PILImage
    from gemma4_gguf import Image
    from gemma4_gguf.engine import lifetime

    def load_with_log():
        logging.getLogger("gemma4_gguf").setLevel(1)
        opened().close()

    pixels = PILImage.fromarray(np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    session = opened()
    for work in (
        load_with_log,
        lambda: opened().close(),
        lambda: session.logits([2, *range(5, 400)]),
        lambda: session.engine.projector.encode_image(np.asarray(pixels)),
        lambda: session.ask("Hello", temperature=1.0, max_tokens=200),
    ):
        for i in range(10):
            try:
                threading.Timer(0.002 + 0.001 * i * i, os.kill, (os.getpid(), signal.SIGINT)).start()
                while True:
                    work()
            except KeyboardInterrupt:
                print("interrupted")
        logging.getLogger("gemma4_gguf").setLevel(30)
        assert session.ask("Hello").text
    gc.collect()
    assert len(lifetime._living) == 1, "what was half open is freed"
"""


def test_ctrl_c_arrives_and_leaves_nothing(nano: Path) -> None:
    """At places spread over the whole work: loading, a prompt, a picture, a reply."""
    assert run_script(nano, INTERRUPTS).count("interrupted") == 50
