"""Source files: what a conversion reads, opened with care and still the same at its end.

A checkpoint comes from anywhere: in the place of a file there may be a pipe that never ends, a directory, or
gigabytes of something else. Nothing is read that is no regular file, and nothing beyond a bound. A
conversion takes minutes; files that are replaced meanwhile would give a mixture of two models, so what a file
looked like when it was first opened is compared when everything has been read.
"""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import BinaryIO

from gemma4_gguf.errors import CheckpointError, Gemma4Error

# Bounds on what is read at once, in bytes. Python's objects take up to 32 times the text they come from.
MAX_JSON = 16 << 20
MAX_TOKENIZER = 64 << 20  # the published one has 32 MB
MAX_TEXT = 4 << 20

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class SourceFiles:
    """The files that one conversion reads. Thread-safe.

    Args:
        error: what to raise for a file that cannot be used.
    """

    def __init__(self, error: type[Gemma4Error] = CheckpointError) -> None:
        self._error = error
        self._seen: dict[Path, tuple[int, ...]] = {}
        self._lock = threading.Lock()

    def open(self, path: Path) -> BinaryIO:
        """Opens a regular file for reading, without buffering.

        Args:
            path: of the file; links are followed.

        Returns:
            The open file.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: it is no regular file, cannot be read, or is another than at the first time.
        """
        # A pipe would block the opening until somebody writes into it.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        try:
            self._require_regular(path, path.stat())
            file = os.fdopen(os.open(path, flags), "rb", buffering=0)
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:
            raise self._unreadable(path, error) from error
        try:
            self.remember(path, os.fstat(file.fileno()))
        except BaseException:
            file.close()
            raise
        return file

    def read(self, path: Path, limit: int = MAX_JSON) -> bytes | None:
        """The bytes of a small file.

        Args:
            path: of the file.
            limit: bytes it may have.

        Returns:
            None if there is no such file.

        Raises:
            CheckpointError: it is no regular file, cannot be read, or is larger than the limit.
        """
        try:
            with self.open(path) as file:
                data = bytearray()
                while len(data) <= limit and (piece := file.read(min(1 << 20, limit + 1 - len(data)))):
                    data += piece
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(path, error) from error
        if len(data) > limit:
            raise self._error(
                f"{path} has more than {limit / 1e6:.0f} MB, and no such file of a checkpoint has. "
                "Download it again."
            )
        return bytes(data)

    def remember(self, path: Path, found: os.stat_result) -> None:
        """Notes what a file looks like, or compares it with what was noted.

        Args:
            path: of the file.
            found: of the open file.

        Raises:
            CheckpointError: it is no regular file, or another than at the first time.
        """
        self._require_regular(path, found)
        mark = _mark(found)
        with self._lock:
            known = self._seen.setdefault(path, mark)
        if known != mark:
            raise self._changed(path)

    def check_unchanged(self) -> None:
        """Looks at every file again.

        Raises:
            CheckpointError: one was replaced, cut, extended or removed since it was first opened.
        """
        for path, mark in self._seen.items():
            try:
                found = path.stat()
            except OSError as error:
                raise self._changed(path) from error
            if _mark(found) != mark:
                raise self._changed(path)

    def _require_regular(self, path: Path, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            kind = next((name for test, name in _KINDS if test(found.st_mode)), "no regular file")
            raise self._error(f"{path} is {kind}; expected a file. Download it again.")

    def _unreadable(self, path: Path, error: OSError | ValueError) -> Gemma4Error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return self._error(f"{path}: cannot be read: {why}. Check its permissions, or download it again.")

    def _changed(self, path: Path) -> Gemma4Error:
        return self._error(
            f"{path} changed while it was read: it was replaced, written to or removed. Nothing was "
            "written. Start again when nothing else works on the files."
        )


def _mark(found: os.stat_result) -> tuple[int, ...]:
    """What tells one state of a file from another. The time of its last change of rights or name does not."""
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
