"""Ctrl-C, SIGTERM and SIGHUP at any moment: a short line and an exit code, never a traceback."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gemma4_gguf.cli import signals
from gemma4_gguf.cli.main import main

SENT = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
# A command that is interrupted when it imports a module.
CHILD = """
import os, signal, sys
class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), {number})
            for _ in range(1000): pass
sys.meta_path.insert(0, Interrupts())
sys.argv = ["gemma4-gguf", "devices"]
from gemma4_gguf.__main__ import main
main()
"""
MODULES = ["gemma4_gguf.cli.terminal", "gemma4_gguf.cli.main", "argparse", "pydantic", "numpy", "llama_cpp"]


def run(action: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> int:
    def command(_: object) -> int:
        action()
        return 0

    monkeypatch.setattr("gemma4_gguf.cli.devices.run", command)
    return main(["devices"])


def sleep() -> None:
    for _ in range(500):
        time.sleep(0.01)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("module", MODULES)
def test_a_signal_while_modules_are_imported(module: str, tmp_path: Path) -> None:
    number = signal.SIGTERM if module == "pydantic" else signal.SIGINT
    code = CHILD.format(module=module, number=int(number))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (128 + number, "")
    assert done.stderr.split() == [signals.farewell(number)]


@pytest.mark.parametrize("number", SENT)
def test_a_signal_while_a_command_runs(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_away = []

    def work() -> None:
        try:
            signal.raise_signal(number)
            sleep()
        finally:
            signal.raise_signal(number)  # a key that is pressed twice: the tidying up goes on
            put_away.append(True)

    before = signal.getsignal(number)
    assert run(work, monkeypatch) == 128 + number
    out, err = capsys.readouterr()
    assert out == "" and err.split("\n") == ["", signals.farewell(number), ""]
    assert put_away and signal.getsignal(number) == before


def test_a_signal_that_a_library_turns_into_another_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
            sleep()
        except KeyboardInterrupt as error:
            raise ImportError("numpy failed to import") from error

    assert run(work, monkeypatch) == 130
    assert capsys.readouterr().err.strip() == "Interrupted."


def test_a_signal_that_is_lost_in_a_callback_comes_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    callback = ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGINT))

    def work() -> None:
        callback()
        sleep()

    class Finalised:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def also() -> None:
        Finalised()
        sleep()

    for action in (work, also):
        start = time.monotonic()
        assert run(action, monkeypatch) == 130
        assert time.monotonic() - start < 4  # it did not sleep to its end
        assert capsys.readouterr().err.strip() == "Interrupted."


def test_a_second_signal_after_a_while_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(signals, "PATIENCE_S", -1.0)
    monkeypatch.setattr(signals, "end_process", lambda number, frame: ended.append(number))

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
            sleep()
        finally:
            signal.raise_signal(signal.SIGINT)

    assert run(work, monkeypatch) == 130 and ended == [signal.SIGINT]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_signals_that_were_ignored_stay_so(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        assert run(lambda: signal.raise_signal(signal.SIGHUP), monkeypatch) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
