"""Files appear whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
from output_files import names, numbers, output, tensor

from gemma4_gguf.convert.progress import Progress
from gemma4_gguf.convert.writer import OutputTensor, write_files
from gemma4_gguf.errors import OutputError
from gemma4_gguf.files import atomic_write
from gemma4_gguf.files.atomic_write import PendingFile, remove_leftovers


def failing(after: int, error: BaseException) -> Callable[[int, int], np.ndarray]:
    def read(start: int, stop: int) -> np.ndarray:
        if start >= after:
            raise error
        return np.zeros((stop - start, 256), np.float32)

    return read


@pytest.mark.parametrize("error", [RuntimeError("injected"), KeyboardInterrupt(), MemoryError()])
def test_a_failure_mid_write_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    out = tmp_path / "new"
    read = failing(4000, error)
    broken = OutputTensor("b", (9000, 256), "Q8_0", "F32", None, read)
    whole = output(out / "a.gguf", tensor("a", numbers(9, 32), "Q8_0"))
    with pytest.raises(type(error)):
        write_files([whole, output(out / "mmproj-a.gguf", broken)])
    assert not out.exists()


def test_a_failure_keeps_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "f.gguf").write_bytes(b"old")
    broken = OutputTensor("b", (9000, 256), "Q8_0", "F32", None, failing(4000, RuntimeError("injected")))
    with pytest.raises(RuntimeError, match="injected"):
        write_files([output(tmp_path / "f.gguf", broken)], force=True)
    assert names(tmp_path) == ["f.gguf"]
    assert (tmp_path / "f.gguf").read_bytes() == b"old"


def test_an_exception_in_the_callback_ends_the_run(tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        raise StopIteration("enough")

    with pytest.raises(StopIteration, match="enough"):
        write_files([output(tmp_path / "f.gguf", tensor("a", numbers(9, 32), "Q8_0"))], progress=stop)
    assert names(tmp_path) == []


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        written.append(len(data))
        if len(written) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(fd, data)

    monkeypatch.setattr(atomic_write, "pwrite", pwrite)
    with pytest.raises(OutputError, match=r"disk of .* is full"):
        write_files([output(tmp_path / "f.gguf", tensor("a", numbers(9000, 256), "Q8_0"))])
    assert names(tmp_path) == []
    assert len(written) > 3


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:100], offset))
    values = numbers(9, 32)
    write_files([output(tmp_path / "f.gguf", tensor("a", values, "F32"))])
    assert gguf.GGUFReader(tmp_path / "f.gguf").tensors[0].data.tobytes() == values.tobytes()


def test_room_is_checked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=999))
    read = failing(0, AssertionError("must not be read"))
    file = output(tmp_path / "f.gguf", OutputTensor("b", (9000, 256), "Q8_0", "F32", None, read))
    with pytest.raises(OutputError, match=r"has 0\.00 GB free; 0\.00 GB are needed"):
        write_files([file])
    assert names(tmp_path) == []


def test_existing_files_need_force(tmp_path: Path) -> None:
    (tmp_path / "mmproj-f.gguf").write_bytes(b"old")
    files = [
        output(tmp_path / name, tensor("a", numbers(9, 32), "F32")) for name in ("f.gguf", "mmproj-f.gguf")
    ]
    with pytest.raises(OutputError, match=r"mmproj-f\.gguf exists already"):
        write_files(files)
    assert names(tmp_path) == ["mmproj-f.gguf"]
    write_files(files, force=True)
    assert (tmp_path / "f.gguf").read_bytes() == (tmp_path / "mmproj-f.gguf").read_bytes() != b"old"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    file = output(tmp_path / "file" / "f.gguf", tensor("a", numbers(9, 32), "F32"))
    with pytest.raises(OutputError, match="is no directory, so nothing can be written"):
        write_files([file])


def test_both_names_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if target.name == "f.gguf":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    files = [
        output(tmp_path / name, tensor("a", numbers(9, 32), "F32")) for name in ("f.gguf", "mmproj-f.gguf")
    ]
    with pytest.raises(OutputError, match="Permission denied"):
        write_files(files)
    assert names(tmp_path) == []


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with PendingFile(tmp_path / "f.gguf"):
        with pytest.raises(OutputError, match="Another process is writing"):
            PendingFile(tmp_path / "f.gguf")
        assert remove_leftovers(tmp_path) == []
        assert names(tmp_path) == [".f.gguf.gemma4-part"]
    assert names(tmp_path) == []


CHILD = """
import signal  # nohup and background jobs of shells leave some ignored
for name, handler in (("SIGINT", signal.default_int_handler), ("SIGTERM", 0), ("SIGHUP", 0)):
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), handler)
import sys, time
from pathlib import Path
import numpy as np
from gemma4_gguf.convert.writer import OutputFile, OutputTensor, write_files
def read(start, stop):
    return np.zeros((stop - start, 256), np.float32)
def progress(step):
    print(step.done_bytes, flush=True)
    time.sleep(0.2)
big = OutputTensor("big", (200_000, 256), "Q8_0", "F32", None, read)
write_files([OutputFile(Path(sys.argv[1]), [], [big], True)], progress=progress)
"""


def interrupt(path: Path, number: int) -> int:
    """Start writing in a child, send it a signal after the first slice; returns its exit status."""
    command = [sys.executable, "-c", CHILD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        if child.stdout is None or not child.stdout.readline():
            raise AssertionError("the child wrote nothing")
        child.send_signal(number)
        return child.wait(20)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("name", "status"), [("SIGINT", -signal.SIGINT), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, name: str, status: int) -> None:
    assert interrupt(tmp_path / "f.gguf", getattr(signal, name)) == status
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_the_next_run_clears_up_after_a_kill(tmp_path: Path) -> None:
    assert interrupt(tmp_path / "killed.gguf", signal.SIGKILL) == -signal.SIGKILL
    assert names(tmp_path) == [".killed.gguf.gemma4-part"]
    write_files([output(tmp_path / "other.gguf", tensor("a", numbers(9, 32), "F32"))])
    assert names(tmp_path) == ["other.gguf"]


def test_signals_are_left_alone_in_other_threads(tmp_path: Path) -> None:
    file = output(tmp_path / "f.gguf", tensor("a", numbers(9, 32), "F32"))
    thread = threading.Thread(target=write_files, args=([file],))
    thread.start()
    thread.join()
    assert names(tmp_path) == ["f.gguf"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_handlers_of_the_program_are_kept(tmp_path: Path) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:

        def progress(step: Progress) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

        write_files([output(tmp_path / "f.gguf", tensor("a", numbers(9, 32), "F32"))], progress=progress)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]
    assert names(tmp_path) == ["f.gguf"]
