"""Gives back to the system the pages of a model file that nothing will read again soon.

llama.cpp maps the file. What has been read through the mapping counts as this process's memory, though most
of it is never needed again:

- Weights that the CPU wants in another order are copied while loading (Q4_K and some others): the pages they
  were copied from are dead. `release_all` drops every page of the mapping once; what is still needed, such as
  the output matrix, comes back from the page cache when it is next used.
- The per-layer embeddings of E2B and E4B are a table larger than all layers together, of which a token reads
  one row. llama.cpp is asked to leave it in the file (lazy_mode) and marks its mapping for random access, yet
  Linux maps a whole folio around each row, up to 2 MiB. `release_rows` drops the table every few tokens.

A mapping of a file loses nothing by this: its pages are read again when touched. The page cache of the
system stays as it is, for other processes and the next start.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROWS_KEPT = 16  # tokens whose rows may stay mapped; at 2 MiB each that is 32 MiB

_DONTNEED = 4  # MADV_DONTNEED, on Linux and macOS
_MAPPING = re.compile(
    r"(?P<start>[0-9a-f]+)-(?P<stop>[0-9a-f]+) (?P<mode>\S+) \S+ (?P<file>\S+ \d+) +(?P<path>.*)"
)
_RANDOM = "rr"  # in VmFlags of /proc/self/smaps: marked by MADV_RANDOM


@dataclass(frozen=True)
class Mapping:
    """Addresses [start, stop) under which a part of a file is mapped.

    Args:
        start: first address.
        stop: address after the last.
        random: marked for random access.
    """

    start: int
    stop: int
    random: bool = False


class FilePages:
    """The pages of one mapped file. Every method does nothing where the system offers no way.

    Args:
        path: a file that this process has mapped; None to keep everything.
    """

    def __init__(self, path: Path | None) -> None:
        self._mappings = () if path is None else tuple(read_only_mappings(path))
        self._rows = tuple(mapping for mapping in self._mappings if mapping.random)
        self._n_tokens = 0

    def release_all(self) -> None:
        """Drops every page of the file."""
        _release(self._mappings)

    def release_rows(self, n_tokens: int) -> None:
        """Drops the parts marked for random access, once ROWS_KEPT tokens have come together.

        Args:
            n_tokens: decoded since the last call.
        """
        self._n_tokens += n_tokens
        if self._rows and self._n_tokens >= ROWS_KEPT:
            self._n_tokens = 0
            _release(self._rows)


def read_only_mappings(path: Path) -> list[Mapping]:
    """Where this process has a file mapped read-only; empty if the system will not say."""
    try:
        if sys.platform == "linux":
            with Path("/proc/self/smaps").open(encoding="utf-8", errors="replace") as lines:
                return list(_parse_smaps(lines, path))
        if sys.platform == "darwin":
            from gemma4_gguf.engine.pages_macos import mappings

            return [Mapping(start, stop) for start, stop in mappings(path)]
    except OSError:
        pass  # no /proc, as in some sandboxes
    return []


def _parse_smaps(lines: Iterable[str], path: Path) -> Iterator[Mapping]:
    """Mappings of a file in the text of /proc/self/smaps: a line of addresses, then lines about it."""
    stat = path.stat()
    file = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x} {stat.st_ino}"
    name = os.path.realpath(path)
    found: tuple[int, int] | None = None
    for line in lines:
        match = _MAPPING.match(line)
        if match is not None and "w" not in match["mode"]:
            # btrfs and overlay file systems number the file differently here: then its name must do.
            same = file == match["file"] or name == match["path"]
            found = (int(match["start"], 16), int(match["stop"], 16)) if same else None
        elif found is not None and line.startswith("VmFlags:"):
            yield Mapping(*found, random=_RANDOM in line.split())
            found = None


def _release(mappings: Iterable[Mapping]) -> None:
    for mapping in mappings:
        # The result is not looked at: on failure the pages stay, as they would without this module.
        _madvise()(mapping.start, mapping.stop - mapping.start, _DONTNEED)


@functools.cache
def _madvise() -> Any:
    """int madvise(void * addr, size_t length, int advice);"""
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    function.restype = ctypes.c_int
    return function
