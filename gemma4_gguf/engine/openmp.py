"""OpenMP wait policy: threads sleep instead of spinning while other programs need their cores.

llama.cpp's threads meet after every node of a graph, a thousand times a token, and GNU OpenMP lets those that
are there first spin for some 3 ms. That is fastest on an idle machine. When another program takes one of the
cores, each meeting waits for the scheduler instead: E2B on two cores beside one busy process takes more than
2.5 s a token instead of 0.056.

libgomp spins only briefly (100 rounds) while it manages more threads than there are cores
(gomp_managed_threads in its config/linux/wait.h). So while others are busy a second team of threads is kept,
asleep: 0.09 s a token.

The load of others is read from /proc/stat between two decodes. Elsewhere than on Linux nothing is done.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gemma4_gguf.cpu_cores import allowed_cpus

_log = logging.getLogger(__name__)

WINDOW_S = 0.25  # time over which load is measured
STALE_S = 2.0  # a window longer than this was mostly idle, and says little about the load of now
# Cores that are wanted and not there: above the first the policy becomes passive, below the second active.
SHORT, ENOUGH = 0.3, 0.15
CALM_WINDOWS = 4  # in a row, before the policy becomes active again

_LIBRARY = re.compile(r"\S*/libgomp[^/ ]*\.so[^/ ]*$")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class WaitPolicy:
    """Switches between active and passive waiting by the load of the cores that this process may use.

    One for the process, used by one thread.
    """

    def __init__(self) -> None:
        self._n_threads = 1
        self.cores = allowed_cpus()
        # time, busy seconds of the cores, of this process
        self._last: tuple[float, float, float] | None = None
        self._n_calm = 0
        self._idle_team: IdleTeam | None = None

    @property
    def is_passive(self) -> bool:
        """Whether threads sleep while they wait."""
        return self._idle_team is not None

    def expect(self, n_threads: int) -> None:
        """Announces the size of the graphs' thread team, and begins to measure.

        Args:
            n_threads: of the team, 1 or more.
        """
        self._n_threads = max(self._n_threads, n_threads)
        if self._last is None:
            self._last = self.read_load()

    def update(self) -> None:
        """Measures the load, if enough time has passed, and applies it. Called before a decode."""
        last = self._last
        if last is None or self._n_threads < 2 or time.monotonic() - last[0] < WINDOW_S:
            return
        self._last = now = self.read_load()
        if now is None or now[0] - last[0] > STALE_S:
            return
        seconds, busy, own = (after - before for before, after in zip(last, now, strict=True))
        self.apply(max(0.0, busy - own) / seconds)

    def apply(self, others: float) -> None:
        """Switches the policy where a measurement asks for it.

        Args:
            others: cores that other programs kept busy, 0 or more.
        """
        short = self._n_threads + others - len(self.cores)
        self._n_calm = self._n_calm + 1 if short < ENOUGH else 0
        if short > SHORT and not self.is_passive:
            _log.info("other programs keep %.1f cores busy: threads wait asleep", others)
            self._idle_team = IdleTeam(len(self.cores) + 1)
        elif self._n_calm >= CALM_WINDOWS and self._idle_team is not None:
            _log.info("the cores are free again: threads wait awake")
            self._idle_team.release()
            self._idle_team = None

    def read_load(self) -> tuple[float, float, float] | None:
        """Reads how busy the cores have been.

        Returns:
            The time, the busy seconds of the cores, and those of this process; None where nothing tells.
        """
        try:
            with Path("/proc/stat").open(encoding="ascii") as lines:
                busy = busy_seconds(lines, self.cores)
        except (OSError, ValueError):
            return None
        return time.monotonic(), busy, time.process_time()


class IdleTeam:
    """A second team of OpenMP threads, which does nothing but exist until it is released.

    Args:
        n_threads: of the team.
    """

    def __init__(self, n_threads: int) -> None:
        self._released = threading.Event()
        self._thread = threading.Thread(
            target=self._hold, args=(n_threads,), name="gemma4-idle-team", daemon=True
        )
        self._thread.start()

    def release(self) -> None:
        """Ends the team."""
        self._released.set()
        self._thread.join()

    def _hold(self, n_threads: int) -> None:
        """A team lives as long as the thread that made it."""
        nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)  # free(NULL) does nothing
        for library in _libraries():
            library.GOMP_parallel(nothing, None, ctypes.c_uint(n_threads), ctypes.c_uint(0))
        self._released.wait()


def busy_seconds(lines: Iterable[str], cores: frozenset[int]) -> float:
    """Seconds that cores have been busy since the start.

    Args:
        lines: of /proc/stat (man 5 proc_stat).
        cores: numbers of those that count.

    Returns:
        Their sum over these cores.
    """
    ticks = 0
    for line in lines:
        name, *numbers = line.split()
        if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in cores:
            user, nice, system, _idle, _iowait, irq, softirq = map(int, numbers[:7])
            ticks += user + nice + system + irq + softirq
    return ticks / _TICKS_PER_S


def _libraries() -> list[Any]:
    """Every libgomp of this process: wheels may carry one of their own."""
    if sys.platform != "linux":
        return []
    found = set()
    with Path("/proc/self/maps").open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            match = _LIBRARY.search(line.rstrip("\n"))
            if match is not None:
                found.add(match.group())
    return [ctypes.CDLL(path) for path in sorted(found)]
