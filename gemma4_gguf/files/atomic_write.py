"""Atomic writing: files appear whole or not at all, written beside their final name, renamed at the end.

An exception, Ctrl-C and SIGTERM remove the unfinished file. A process that is killed outright leaves it, but
without its lock, and the next run into the same directory takes it away.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from gemma4_gguf.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be removed anyway
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".gemma4-part"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class PendingFile:
    """A file on its way. Use as a context manager: left without `publish`, it is removed.

    Args:
        final: name the finished file gets.

    Raises:
        OutputError: another process is writing it, it cannot be created, or something that is no file has its
            name.
    """

    def __init__(self, final: Path) -> None:
        check_place(final)
        self.final = final
        self.path = _pending_path(final)
        try:
            self.fd = _create_locked(self.path)
        except OSError as error:
            raise output_error(error, final) from error

    def __enter__(self) -> PendingFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.fd < 0:
            return
        # Unlinked before the lock goes, lest it be another's by then. Windows wants it closed first.
        if os.name == "nt":
            self._close()
        with contextlib.suppress(OSError):
            self.path.unlink()
        self._close()

    def write_at(self, data: Any, offset: int) -> None:
        """Writes a buffer whole at a byte offset. Thread-safe.

        Args:
            data: any contiguous buffer.
            offset: from the start of the file, bytes.
        """
        view = memoryview(data).cast("B")
        while view.nbytes:
            n = pwrite(self.fd, view, offset)
            view, offset = view[n:], offset + n

    def publish(self) -> None:
        """Gives the file its final name. Its bytes must be on disk (`os.fsync`)."""
        if os.name == "nt":
            self._close()
        self.path.replace(self.final)
        self._close()

    def _close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def publish_all(files: Sequence[PendingFile]) -> None:
    """Gives all files their final names, or none.

    The last file is renamed first: a model is never there without its projector.

    Args:
        files: written, in one directory.

    Raises:
        OutputError: a name cannot be taken.
    """
    for file in files:
        os.fsync(file.fd)
    done: list[Path] = []
    for file in reversed(files):
        existed = file.final.exists()
        try:
            file.publish()
        except OSError as error:
            for path in done:
                path.unlink(missing_ok=True)
            raise output_error(error, file.final) from error
        if not existed:
            done.append(file.final)
    _sync_directory(files[0].final.parent)


def prepare_directory(finals: Sequence[Path], needed_bytes: int, *, force: bool) -> None:
    """Checks that files can be written, before anything is: names free, leftovers gone, room on the disk.

    Args:
        finals: names of the files, in one directory, which is made if absent.
        needed_bytes: size of all of them.
        force: existing files may be replaced.

    Raises:
        OutputError: a name is taken, the directory cannot be written, or the disk has no room.
    """
    directory = finals[0].parent
    check_free(finals, force=force)
    try:
        _make_directory(directory)
        remove_leftovers(directory)
        available = shutil.disk_usage(directory).free
    except OSError as error:
        raise output_error(error, directory) from error
    if needed_bytes > available:
        raise OutputError(
            f"{directory} has {available / 1e9:.2f} GB free; {needed_bytes / 1e9:.2f} GB are needed. "
            "Make room, choose another place, or a smaller type."
        )


def check_free(finals: Sequence[Path], *, force: bool) -> None:
    """Looks whether names are free.

    Args:
        finals: names of files to write.
        force: existing files may be replaced.

    Raises:
        OutputError: a name is taken, or cannot be a file's.
    """
    for final in finals:
        check_place(final)
        if os.path.lexists(final) and not force:
            raise OutputError(
                f"{final} exists already. Pass force (--force) to replace it, or choose another place."
            )


def check_place(final: Path) -> None:
    """Looks at the name a file is to get.

    Args:
        final: of the file; it may be there already.

    Raises:
        OutputError: it names a directory, a device or a pipe, which a file would take the place of, or no
            system call takes it.
    """
    try:
        mode = final.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise output_error(error, final) from error
    except ValueError as error:
        raise OutputError(f"{str(final)!r} is no name of a file ({error}). Choose another.") from error
    if stat.S_ISDIR(mode):
        raise OutputError(f"{final} is a directory; expected the name of a file to write.")
    if not stat.S_ISREG(mode):
        raise OutputError(
            f"{final} is a device, a pipe or a socket, which a file is not written into; name a file."
        )


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        blocking = next(path for path in (directory, *directory.parents) if os.path.lexists(path))
        what = "a link that leads nowhere" if not blocking.exists() else "no directory"
        raise OutputError(
            f"{blocking} is {what}, so nothing can be written into {directory}. Choose another directory."
        ) from error


def remove_leftovers(directory: Path) -> list[Path]:
    """Removes unfinished files that no living process holds.

    Args:
        directory: that is there.

    Returns:
        What was removed.
    """
    removed = []
    for path in sorted(directory.glob(f".*{SUFFIX}")):
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDWR)
            try:
                if fcntl is not None:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if _is_same(path, fd):
                        path.unlink()
            finally:
                os.close(fd)
            if fcntl is None:
                path.unlink()
            removed.append(path)
    return removed


def output_error(error: OSError, path: Path) -> OutputError:
    """Says what a failure of the operating system means for the file to write.

    Args:
        error: what the system said.
        path: of the file.

    Returns:
        The error to raise.
    """
    if error.errno in _FULL:
        return OutputError(
            f"The disk of {path} is full; nothing was left behind. Make room or choose another place."
        )
    if isinstance(error, BlockingIOError):
        return OutputError(
            f"Another process is writing {path} at the moment. Wait for it, or choose another place."
        )
    if error.errno == errno.ENAMETOOLONG:
        return OutputError(f"{path!s:.80}… is too long a name for the file system. Choose a shorter one.")
    return OutputError(f"{path} cannot be written: {error.strerror or error}. Choose another place.")


@contextlib.contextmanager
def termination_raises() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP unwind the stack like Ctrl-C does, where they would end the process at once.

    Yields:
        Nothing.
    """
    names = ("SIGTERM", "SIGHUP")
    signals = [getattr(signal, name) for name in names if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        signals = []
    replaced = [number for number in signals if signal.getsignal(number) == signal.SIG_DFL]
    try:
        for number in replaced:
            signal.signal(number, _raise_exit)
        yield
    finally:
        for number in replaced:
            signal.signal(number, signal.SIG_DFL)


def _raise_exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _pending_path(final: Path) -> Path:
    return final.with_name(f".{final.name}{SUFFIX}")


def _create_locked(path: Path) -> int:
    """Opens an empty file of that name with its lock held."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    while True:
        fd = os.open(path, flags, 0o666)
        try:
            if fcntl is not None:
                _lock(fd)
            # Between opening and locking, the former owner may have renamed or removed this very file.
            if os.name == "nt" or _is_same(path, fd):
                os.ftruncate(fd, 0)
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _is_same(path: Path, fd: int) -> bool:
    """Whether a name still stands for an open file."""
    return path.exists() and os.path.samestat(path.stat(), os.fstat(fd))


def _lock(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
            raise  # some network file systems have no locks; leftovers there stay until removed by hand


def _sync_directory(directory: Path) -> None:
    """Makes a rename survive a power cut, where the system lets a directory be opened."""
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


_seek_lock = threading.Lock()


def pwrite(fd: int, view: memoryview, offset: int) -> int:
    """Writes at an offset, as POSIX's pwrite; under a lock where the system has none.

    Args:
        fd: descriptor of the file.
        view: bytes.
        offset: where to, bytes.

    Returns:
        Bytes that were written, maybe fewer.
    """
    if hasattr(os, "pwrite"):
        return os.pwrite(fd, view, offset)
    with _seek_lock:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, view)
