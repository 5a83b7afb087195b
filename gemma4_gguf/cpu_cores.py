"""CPU cores: those that this process may use, by its affinity and the limit of its container."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def allowed_cpus() -> frozenset[int]:
    """The logical processors that the system schedules this process on.

    Returns:
        Their numbers, from 0.
    """
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def logical_cores() -> int:
    """Threads that can run at once: as many as there are processors, fewer where a container has a limit.

    Returns:
        At least 1.
    """
    return max(1, min([len(allowed_cpus()), *_limits()]))


def physical_cores() -> int:
    """The same without hyper-threads, which only slow ggml's matrix products down.

    Returns:
        At least 1.
    """
    if not hasattr(os, "sched_getaffinity"):  # macOS and Windows do not tell siblings
        return logical_cores()
    cores = {_siblings(cpu) for cpu in allowed_cpus()}
    return max(1, min([len(cores), *_limits()]))


def _siblings(cpu: int) -> str:
    try:
        return Path(_SIBLINGS.format(cpu)).read_text()
    except OSError:
        return str(cpu)


def _limits() -> Iterator[int]:
    """Whole cores of every limit on this process's way up the control groups."""
    for folder in _groups():
        try:  # version 2
            quota, period = (folder / "cpu.max").read_text().split()
        except (OSError, ValueError):
            try:  # version 1
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            except OSError:
                continue
        try:
            cores = int(quota) // int(period)  # one thread too many, and all wait for the one that is held up
        except (ValueError, ZeroDivisionError):  # "max"
            continue
        if int(quota) > 0:  # -1 is no limit, too
            yield max(1, cores)


def _groups() -> Iterator[Path]:
    """Folders of this process's control group and of those above it."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        root = _CGROUPS if not controllers else _CGROUPS / "cpu"
        if controllers and "cpu" not in controllers.split(","):
            continue
        folder = root / name.strip("/")
        while True:
            yield folder
            if folder == root:
                break
            folder = folder.parent
