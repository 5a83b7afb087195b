"""Compute thread: the only one that runs graphs, and Ctrl-C while it does.

All graphs run on one thread of the process. OpenMP keeps a team of workers for every thread that computes,
and with a second team there are more workers than cores: they then sleep at every node of a graph instead of
waiting awake (E2B on two cores: 71 ms a token instead of 55).

Python handles signals only between its own instructions and on the main thread, so a decode there would hold
them up, and in a callback of C it would lose them. While the main thread waits for the one that computes, it
can be told to stop: llama.cpp polls a byte. The poll is libc's strlen of that byte ("" or one character): a
callback in Python would fight for the interpreter lock at every node of the graph.
"""

from __future__ import annotations

import ctypes
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from gemma4_gguf.engine.library import libc
from gemma4_gguf.engine.openmp import WaitPolicy

T = TypeVar("T")

_NAME = "gemma4-compute"
wait_policy = WaitPolicy()


class Cancelled(Exception):
    """Whoever asked for this work does not want it any more."""


# Of what this thread does: set when nobody wants it any more. It is looked at before each graph.
cancellation: ContextVar[threading.Event | None] = ContextVar("cancellation", default=None)


def require_wanted() -> None:
    """Checks that what this thread does is still wanted.

    Raises:
        Cancelled: it is not.
    """
    event = cancellation.get()
    if event is not None and event.is_set():
        raise Cancelled


def compute(work: Callable[[], T], stop: Callable[[], None]) -> T:
    """Runs work on the thread that computes.

    Args:
        work: calls llama.cpp.
        stop: makes that call return soon; called when Ctrl-C comes while this thread waits, which is raised
            once the call has returned.

    Returns:
        What the work returns.

    Raises:
        Cancelled: it is not wanted any more.
    """
    if threading.current_thread().name == _NAME:
        return work()
    require_wanted()

    def measured() -> T:
        wait_policy.update()
        return work()

    return _run(measured, stop, worker.submit)


def aside(work: Callable[[], T], stop: Callable[[], None]) -> T:
    """Runs work that computes nothing, such as loading, on a thread of its own.

    Args:
        work: calls llama.cpp, whose callbacks then never meet a Ctrl-C.
        stop: as for `compute`.

    Returns:
        What the work returns.
    """
    return _run(work, stop, _begin)


class _Job(Generic[T]):
    """Work that either has not begun or can be waited for, wherever an exception hits the one that asked."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._begun = self._cancelled = False
        self._ended = threading.Event()
        self.outcome: Future[T] = Future()

    def __call__(self) -> None:
        with self._lock:
            if self._cancelled:
                self.outcome.set_exception(CancelledError())
                return
            self._begun = True
        try:
            self.outcome.set_result(self._work())
        except BaseException as error:
            self.outcome.set_exception(error)
        finally:
            self._ended.set()

    @property
    def over(self) -> bool:
        """It will not run any more."""
        return self._cancelled or self._ended.is_set()

    def cancel(self) -> bool:
        """Keeps it from beginning, and says whether that was in time."""
        with self._lock:
            self._cancelled = not self._begun
            return self._cancelled

    def end(self, stop: Callable[[], None]) -> None:
        """Cancels it, or stops it and waits."""
        if not self.cancel():
            if not self._ended.is_set():
                stop()
            self._ended.wait()


class _Worker:
    """A thread that runs one job after the other; it begins with the first, and ends with the process."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._begun = False
        self._lock = threading.Lock()

    def submit(self, job: Callable[[], None]) -> None:
        with self._lock:
            if not self._begun:
                _begin(self._serve, _NAME)
                self._begun = True
        self._jobs.put(job)

    def _serve(self) -> None:
        while True:
            self._jobs.get()()


worker = _Worker()


def _begin(job: Callable[[], None], name: str = "gemma4-load") -> None:
    threading.Thread(target=job, name=name, daemon=True).start()


def _run(work: Callable[[], T], stop: Callable[[], None], submit: Callable[[_Job[T]], None]) -> T:
    job = _Job(work)
    try:
        submit(job)
        return job.outcome.result()
    except BaseException as error:
        if isinstance(error, RuntimeError) and job.cancel():
            return work()  # the interpreter is ending and begins no more threads
        while not job.over:
            try:
                job.end(stop)
            except KeyboardInterrupt:  # it was told already
                continue
        raise


def _begin_anew() -> None:
    """In a forked process: the thread stayed in the parent."""
    global worker, wait_policy
    worker, wait_policy = _Worker(), WaitPolicy()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


class Interrupt:
    """Runs the decodes of one context so that Ctrl-C stops them.

    Args:
        lib: the binding module.
        handle: of the llama_context.
    """

    def __init__(self, lib: Any, handle: Any) -> None:
        self._flag = ctypes.create_string_buffer(2)
        strlen = ctypes.cast(libc().strlen, ctypes.c_void_p).value
        callback = lib.ggml_abort_callback(strlen)
        lib.llama_set_abort_callback(handle, callback, ctypes.cast(self._flag, ctypes.c_void_p))

    def run(self, work: Callable[[], int]) -> int:
        """Runs a decode; Ctrl-C stops it first and is then raised.

        Args:
            work: calls llama_decode.

        Returns:
            What the work returns.
        """
        try:
            return compute(work, self.stop)
        finally:
            self.go_on()

    @property
    def is_stopping(self) -> bool:
        """A running decode, or the next one, will return soon."""
        return bool(self._flag[0] != b"\0")

    def stop(self) -> None:
        """Makes a running decode, or the next one, return soon."""
        self._flag[0] = b"\x01"

    def go_on(self) -> None:
        """Takes `stop` back."""
        self._flag[0] = b"\0"
