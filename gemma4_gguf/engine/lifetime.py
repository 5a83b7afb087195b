"""Lifetime: what llama.cpp has loaded is freed only when nobody is inside with it, and used only before that.

llama.cpp checks neither. So every call into it is made inside the lifetime of its model, and closing waits:

- `close()` while other threads compute stops them, waits until they are out, and frees.
- `close()` from inside, as in a signal handler or a finalizer, leaves it to the last one out.
- At the end of the interpreter everything is closed while threads still run: what a daemon thread computes
  would otherwise go on while the libraries under it are taken down. Such a thread waits until it is gone.
- A forked process has the memory of its parent but not the threads: every use is refused there, and nothing
  freed.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from gemma4_gguf.engine.library import unheard
from gemma4_gguf.errors import EngineError

_CLOSED = "The session is closed. Open it again."
_FORKED = (
    "This session was opened before the process was forked, and its threads stayed in the parent. Open a "
    "session in each process after the fork, or start processes with multiprocessing's 'spawn'."
)


class Lifetime:
    """Of one model and everything made from it. As a context manager it is a use: it cannot be freed inside.

    Raises:
        EngineError: entered after it was closed, or in a forked process.
    """

    def __init__(self) -> None:
        self._users: list[int] = []  # thread idents; one that enters twice is there twice
        self._refusal = ""
        self._exiting = False
        self._changed = threading.Condition()
        self._stops: list[Callable[[], None]] = []
        self._frees: list[weakref.finalize] = []
        _living.add(self)

    def on_stop(self, stop: Callable[[], None]) -> None:
        """Adds what makes users leave soon; called when it is being closed, from any thread.

        Args:
            stop: must not wait.
        """
        self._stops.append(stop)

    def on_close(self, free: weakref.finalize) -> None:
        """Adds what is freed with it, the newest first.

        Args:
            free: a finalizer; at the end of the interpreter it is run by closing the lifetime.
        """
        free.atexit = False
        self._frees.append(free)

    @property
    def is_over(self) -> bool:
        """Closed, or of another process."""
        return bool(self._refusal)

    def require(self) -> None:
        """Checks that it can be used.

        Raises:
            EngineError: it was closed, or belongs to another process.
        """
        with self:
            pass

    def __enter__(self) -> Lifetime:
        self._users.append(threading.get_ident())
        if self._refusal:  # looked at only now, so that whoever closes it meanwhile sees this user
            self.__exit__()
            raise EngineError(self._refusal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        me = threading.get_ident()
        self._users.remove(me)
        if self._refusal:
            with self._changed:
                if not self._users:
                    self._free()
                self._changed.notify_all()
            if self._exiting and me not in self._users and me != threading.main_thread().ident:
                threading.Event().wait()

    def close(self) -> None:
        """Stops whoever is inside, waits, and frees. Calling it again does nothing."""
        if self._refusal == _FORKED:
            return
        me = threading.get_ident()
        with self._changed:
            self._refusal = _CLOSED
            for stop in self._stops:
                stop()
            while any(user != me for user in self._users):
                self._changed.wait()
            if not self._users:
                self._free()

    def close_at_exit(self) -> None:
        """As `close`, and threads that are inside, or come, do not return to their caller."""
        self._exiting = True
        self.close()

    def forget(self) -> None:
        """In a forked process: refuses every use and frees nothing."""
        self._refusal = _FORKED
        self._changed = threading.Condition()
        for free in self._frees:
            free.detach()

    def _free(self) -> None:
        """Frees all of it, also when Ctrl-C comes meanwhile, which is raised after that."""
        interrupt: KeyboardInterrupt | None = None
        with unheard():
            while self._frees:
                free = self._frees.pop()
                try:
                    free()
                except KeyboardInterrupt as late:
                    interrupt = late
        _living.discard(self)
        if interrupt is not None:
            raise interrupt


class LifetimeLock:
    """A lock that is held inside a lifetime only; the same thread may take it again.

    Args:
        lifetime: of what it guards.
    """

    def __init__(self, lifetime: Lifetime) -> None:
        self._lifetime = lifetime
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lifetime.__enter__()
        try:
            self._lock.acquire()
        except BaseException:
            self._lifetime.__exit__()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
        self._lifetime.__exit__()


_living: weakref.WeakSet[Lifetime] = weakref.WeakSet()


def _close_all() -> None:
    for lifetime in list(_living):
        with suppress(KeyboardInterrupt):
            lifetime.close_at_exit()


def _forget_all() -> None:
    for lifetime in list(_living):
        lifetime.forget()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
