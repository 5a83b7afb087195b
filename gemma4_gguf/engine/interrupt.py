"""The one thread that computes, and Ctrl-C while it does.

All graphs run on one thread of the process. OpenMP keeps a team of workers for every thread that computes,
and with a second team there are more workers than cores: they then sleep at every node of a graph instead of
waiting awake (E2B on two cores: 71 ms a token instead of 55).

Python handles signals only between its own instructions and on the main thread, so a decode there would hold
them up. While the main thread waits for the one that computes, it can be told to stop: llama.cpp polls a
byte. The poll is libc's strlen of that byte ("" or one character): a callback in Python would fight for the
interpreter lock at every node of the graph.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from gemma4_gguf.engine.contention import Contention

T = TypeVar("T")

_NAME = "gemma4-compute"
_workers = ThreadPoolExecutor(1, _NAME)
contention = Contention()


def compute(work: Callable[[], T], stop: Callable[[], None]) -> T:
    """Runs work on the thread that computes.

    Args:
        work: calls llama.cpp.
        stop: makes that call return soon; called when Ctrl-C comes while this thread waits, which is raised
            once the call has returned.

    Returns:
        What the work returns.
    """
    if threading.current_thread().name.startswith(_NAME):
        return work()
    try:
        future = _workers.submit(_paced, work)
    except RuntimeError:  # the interpreter is ending and takes no more work
        return work()
    try:
        return future.result()
    except BaseException:
        if not future.done():
            stop()
            _await(future)
        raise


def _paced(work: Callable[[], T]) -> T:
    contention.look()
    return work()


class Interrupt:
    """Runs the decodes of one context so that Ctrl-C stops them.

    Args:
        lib: the binding module.
        handle: of the llama_context.
    """

    def __init__(self, lib: Any, handle: Any) -> None:
        self._flag = ctypes.create_string_buffer(2)
        strlen = ctypes.cast(_libc().strlen, ctypes.c_void_p).value
        callback = lib.ggml_abort_callback(strlen)
        lib.llama_set_abort_callback(handle, callback, ctypes.cast(self._flag, ctypes.c_void_p))

    def run(self, work: Callable[[], int]) -> int:
        """Runs a decode; Ctrl-C stops it first and is then raised."""
        try:
            return compute(work, self._stop)
        finally:
            self._flag[0] = b"\0"

    def _stop(self) -> None:
        self._flag[0] = b"\x01"


def _await(future: Future[Any]) -> None:
    """Waits for work that has been told to stop, whatever else is pressed."""
    while not future.done():
        try:
            wait([future])
        except KeyboardInterrupt:
            continue


def _libc() -> Any:
    return ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)
