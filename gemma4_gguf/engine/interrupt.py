"""Ctrl-C during a long decode.

Python handles signals only between its own instructions and on the main thread, so a decode there would
hold them up. The work runs on a helper thread while the main one waits, and llama.cpp polls a byte for the
order to stop. The poll is libc's strlen of that byte ("" or one character): a callback in Python would
fight for the interpreter lock at every node of the graph.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any


class Interrupt:
    """Runs decodes of one context so that an exception in the waiting thread stops them.

    Args:
        lib: the binding module.
        handle: of the llama_context.
    """

    def __init__(self, lib: Any, handle: Any) -> None:
        self._flag = ctypes.create_string_buffer(2)
        self._workers = ThreadPoolExecutor(1, "gemma4-decode")
        strlen = ctypes.cast(_libc().strlen, ctypes.c_void_p).value
        callback = lib.ggml_abort_callback(strlen)
        lib.llama_set_abort_callback(handle, callback, ctypes.cast(self._flag, ctypes.c_void_p))

    def run(self, work: Callable[[], int]) -> int:
        """Runs work; an exception in the waiting thread (Ctrl-C) stops it first and is then raised."""
        if threading.current_thread() is not threading.main_thread():
            return work()
        future = self._workers.submit(work)
        try:
            return future.result()
        except BaseException:
            self._flag[0] = b"\x01"
            _await(future)
            raise
        finally:
            self._flag[0] = b"\0"

    def close(self) -> None:
        self._workers.shutdown(wait=False)


def _await(future: Future[int]) -> None:
    """Waits for work that has been told to stop, whatever else is pressed."""
    while not future.done():
        try:
            wait([future])
        except KeyboardInterrupt:
            continue


def _libc() -> Any:
    return ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)
