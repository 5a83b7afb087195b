"""Resident pages: those of a model file that nothing will read again soon, given back to the system.

llama.cpp maps the file. What has been read through the mapping counts as this process's memory, though most
of it is never needed again:

- Weights that the CPU wants in another order are copied while loading (Q4_K and some others): the pages they
  were copied from are dead. They are known by being mapped to the last page when loading ends.
- What is read later brings neighbours along: Linux maps several pages around the one that is read, or a huge
  page of 2 MiB. So the dead get no huge pages, which also ends those of the matrices in use at their borders
  and nowhere else (without any, decoding takes 5 % longer); the matrices are mapped beforehand, and what came
  along is dropped after that.
- The per-layer embeddings of E2B and E4B are a table larger than all layers together, of which a token reads
  one row. llama.cpp is asked to leave it in the file (lazy_mode) and marks its mapping for random access; its
  pages, neighbours again, are dropped every few tokens.

A mapping of a file loses nothing by this: its pages are read again when touched. The page cache of the
system stays as it is, for other processes and the next start.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROWS_KEPT = 16  # tokens whose rows may stay mapped; each takes 64 KiB and more

_DONTNEED = 4  # MADV_DONTNEED, on Linux and macOS
_NO_HUGE_PAGES = 15  # MADV_NOHUGEPAGE, on Linux
_POPULATE_READ = 22  # MADV_POPULATE_READ, on Linux since 5.14
_MAPPING = re.compile(
    r"(?P<start>[0-9a-f]+)-(?P<stop>[0-9a-f]+) (?P<mode>\S+) (?P<offset>[0-9a-f]+) "
    r"(?P<file>\S+ \d+) +(?P<path>.*)"
)
_FEW_PAGES = 16  # a tensor so small may be mapped as a neighbour only: it counts as needed
_PRESENT = 63  # bit of an entry of /proc/self/pagemap
_RANDOM = "rr"  # in VmFlags of /proc/self/smaps: marked by MADV_RANDOM


@dataclass(frozen=True)
class Mapping:
    """Addresses [start, stop) under which a part of a file is mapped.

    Args:
        start: first address.
        stop: address after the last.
        offset: bytes of the file before it.
        random: marked for random access.
    """

    start: int
    stop: int
    offset: int = 0
    random: bool = False


class FilePages:
    """The pages of one mapped file. Every method does nothing where the system offers no way.

    Args:
        path: a file that this process has mapped; None to keep everything.
        tensors: offset and size of each of its tensors, in bytes.
    """

    def __init__(self, path: Path | None, tensors: Sequence[tuple[int, int]] = ()) -> None:
        mappings = () if path is None else tuple(read_only_mappings(path))
        self.rows = tuple(mapping for mapping in mappings if mapping.random)
        self.matrices = tuple(mapping for mapping in mappings if not mapping.random)
        self._tensors = tensors
        self._n_tokens = 0

    def after_load(self) -> None:
        """Leaves mapped what every token reads. Call it when the model is loaded and nothing was decoded."""
        _advise(self.rows, _NO_HUGE_PAGES)
        _advise(self.rows, _DONTNEED)
        for mapping in self.matrices:
            dead, needed = _by_use(mapping, self._tensors)
            _advise(dead, _NO_HUGE_PAGES)
            _advise([mapping], _DONTNEED)
            _advise(needed, _POPULATE_READ)
            _advise(dead, _DONTNEED)

    def after_decode(self, n_tokens: int) -> None:
        """Drops the rows that were read, once those of ROWS_KEPT tokens have come together.

        Args:
            n_tokens: decoded since the last call.
        """
        self._n_tokens += n_tokens
        if self.rows and self._n_tokens >= ROWS_KEPT:
            self._n_tokens = 0
            _advise(self.rows, _DONTNEED)

    def forget(self) -> None:
        """Touches nothing from now on: once the file is unmapped, its addresses belong to something else."""
        self.rows = self.matrices = ()


def read_only_mappings(path: Path) -> list[Mapping]:
    """Where this process has a file mapped read-only.

    Args:
        path: of the file.

    Returns:
        Mappings by address; empty if the system will not say.
    """
    try:
        if sys.platform == "linux":
            with Path("/proc/self/smaps").open(encoding="utf-8", errors="replace") as lines:
                return list(parse_smaps(lines, path))
        if sys.platform == "darwin":
            from gemma4_gguf.engine.resident_pages_macos import mappings

            return [Mapping(start, stop) for start, stop in mappings(path)]
    except OSError:
        pass  # no /proc, as in some sandboxes
    return []


def parse_smaps(lines: Iterable[str], path: Path) -> Iterator[Mapping]:
    """Mappings of a file in the text of /proc/self/smaps: a line of addresses, then lines about it.

    Args:
        lines: of that text.
        path: of the file; it must be there.

    Yields:
        Those that cannot be written, by address.
    """
    stat = path.stat()
    file = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x} {stat.st_ino}"
    name = os.path.realpath(path)
    found: tuple[int, int, int] | None = None
    for line in lines:
        match = _MAPPING.match(line)
        if match is not None and "w" not in match["mode"]:
            # btrfs and overlay file systems number the file differently here: then its name must do.
            same = file == match["file"] or name == match["path"]
            numbers = int(match["start"], 16), int(match["stop"], 16), int(match["offset"], 16)
            found = numbers if same else None
        elif found is not None and line.startswith("VmFlags:"):
            yield Mapping(*found, random=_RANDOM in line.split())
            found = None


def _by_use(mapping: Mapping, tensors: Iterable[tuple[int, int]]) -> tuple[list[Mapping], list[Mapping]]:
    """Splits the tensors of a mapping into those read already and the others; empty lists without /proc.

    Of a tensor that was read only the inner pages are meant: the outer ones belong to its neighbours too.
    """
    page = mmap.PAGESIZE
    try:
        with Path("/proc/self/pagemap").open("rb", buffering=0) as entries:
            entries.seek(mapping.start // page * 8)
            data = entries.read((mapping.stop - mapping.start) // page * 8)
    except OSError:
        return [], []
    mapped = np.frombuffer(data, np.uint64) >> np.uint64(_PRESENT) == 1
    read, others = [], []
    for offset, n_bytes in tensors:
        start = max(offset - mapping.offset, 0)
        stop = min(offset + n_bytes - mapping.offset, mapping.stop - mapping.start)
        if start >= stop:
            continue
        first, last = -(-start // page), stop // page
        if last - first >= _FEW_PAGES and mapped[first:last].all():
            read.append(Mapping(mapping.start + first * page, mapping.start + last * page))
        else:
            first, last = start // page, -(-stop // page)
            others.append(Mapping(mapping.start + first * page, mapping.start + last * page))
    return read, others


def _advise(mappings: Iterable[Mapping], advice: int) -> None:
    if sys.platform != "linux" and advice != _DONTNEED:
        return
    for mapping in mappings:
        # The result is not looked at: on failure the pages stay, as they would without this module.
        madvise()(mapping.start, mapping.stop - mapping.start, advice)


@functools.cache
def madvise() -> Any:
    """int madvise(void * addr, size_t length, int advice);"""
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    function.restype = ctypes.c_int
    return function
