"""Ctrl-C and SIGTERM: whatever a command is doing, a short line and an exit code.

Nothing is imported here that takes time: this stands before everything else.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGINT = int(signal.SIGINT)
PATIENCE_S = 1.0  # a key that is pressed twice asks once
AGAIN_S = 0.05
_WORDS = {"SIGINT": "Interrupted.", "SIGTERM": "Terminated.", "SIGHUP": "Hung up."}


class Terminated(SystemExit):
    """SIGTERM or SIGHUP came; its code is the exit code."""


def exit_at_once() -> None:
    """Lets Ctrl-C and SIGTERM end the process: for the time in which nothing has begun or all is done."""
    for number in _signals():
        signal.signal(number, end_process)


class Interrupts:
    """What came while a command ran.

    Attributes:
        number: of the first signal; 0 for none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._first_s = 0.0

    def forget(self) -> None:
        """The interrupt was answered, and the command goes on."""
        self.number = 0

    def come(self, number: int, frame: FrameType | None) -> None:
        """Takes a signal: the first unwinds the stack, one more after a second ends the process."""
        if not self.number:
            self.number, self._first_s = number, time.monotonic()
            self._unwind()
        elif time.monotonic() - self._first_s > PATIENCE_S:
            end_process(number, frame)

    def lost(self) -> None:
        """What was raised got lost, as in a callback of C, where nothing passes it on: raises it again."""
        number, self.number = self.number or SIGINT, 0
        again = (os.kill, (os.getpid(), number)) if os.name != "nt" else (signal.raise_signal, (number,))
        timer = threading.Timer(AGAIN_S, *again)  # sent to the process, it wakes a main thread that waits
        timer.daemon = True
        timer.start()

    def _unwind(self) -> None:
        if self.number == SIGINT:
            raise KeyboardInterrupt
        raise Terminated(exit_code(self.number))


current = Interrupts()


@contextmanager
def unwinding() -> Iterator[Interrupts]:
    """Lets signals unwind the stack while a command runs, so that it can put away what it has begun.

    Yields:
        What came.
    """
    global current
    current = Interrupts()
    numbers = _signals() if threading.current_thread() is threading.main_thread() else []
    before = {number: signal.getsignal(number) for number in numbers}
    hook = sys.unraisablehook
    try:
        sys.unraisablehook = _unraisable
        for number in numbers:
            signal.signal(number, current.come)
        yield current
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook


def exit_code(number: int) -> int:
    """The exit code of a signal, as shells give it.

    Args:
        number: of the signal.

    Returns:
        130 for Ctrl-C.
    """
    return 128 + number


def farewell(number: int) -> str:
    """What is said at the end.

    Args:
        number: of the signal.

    Returns:
        One or two words.
    """
    return _WORDS[signal.Signals(number).name]


def _signals() -> list[int]:
    """Those that end a process, but for the ones that whoever started it had ignored (nohup)."""
    numbers = [getattr(signal, name) for name in _WORDS if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]


def end_process(number: int, frame: FrameType | None) -> None:
    """Ends the process at once, with a word and the exit code.

    Args:
        number: of the signal.
        frame: where it was at.
    """
    try:
        if os.isatty(2):
            os.write(2, b"\033[?25h")  # a bar may have hidden the cursor
        os.write(2, f"\n{farewell(number)}\n".encode())
    except OSError:
        pass
    os._exit(exit_code(number))


def _unraisable(unraisable: Any) -> None:
    if issubclass(unraisable.exc_type, (KeyboardInterrupt, Terminated)):
        current.lost()
    elif os.environ.get("GEMMA4_GGUF_DEBUG"):
        sys.__unraisablehook__(unraisable)
