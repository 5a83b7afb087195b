"""Pages of a model file given back: which mappings are meant, what it frees, that answers stay the same."""

from __future__ import annotations

import ctypes
import mmap
import re
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from gemma4_gguf import Session
from gemma4_gguf.engine import resident_pages, resident_pages_macos
from gemma4_gguf.engine.resident_pages import ROWS_KEPT, FilePages, Mapping, read_only_mappings
from gemma4_gguf.files.gguf_reader import open_gguf

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
MIB = 1 << 20
PAGE = mmap.PAGESIZE
N_BYTES = 16 * MIB
ROWS = slice(4 * MIB, 12 * MIB)  # marked for random access


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights with spaces.bin"
    path.write_bytes(np.arange(N_BYTES // 4, dtype=np.uint32).tobytes())
    return path


@pytest.fixture
def mapped(file: Path) -> Iterator[mmap.mmap]:
    """The file as llama.cpp maps it: read-only, shared, a part of it for random access."""
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as view:
        view.madvise(mmap.MADV_RANDOM, ROWS.start, ROWS.stop - ROWS.start)
        yield view


def touch(view: mmap.mmap) -> None:
    assert len(view[:]) == N_BYTES


def resident(path: Path) -> dict[bool, int]:
    """Resident bytes of a file's mappings, by whether they are for random access."""
    found = {False: 0, True: 0}
    for entry in re.split(
        r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text("utf-8"), flags=re.M
    ):
        if entry.partition("\n")[0].endswith(str(path)):
            size = int(re.search(r"^Rss: +(\d+) kB", entry, re.M)[1]) * 1024  # type: ignore[index]
            found[" rr" in re.search(r"^VmFlags:.*", entry, re.M)[0]] += size  # type: ignore[index]
    return found


def n_mapped(path: Path, start: int, stop: int) -> int:
    """Pages of bytes [start, stop) of a file, mapped in one piece, that are in this process's memory."""
    (mapping,) = read_only_mappings(path)
    with Path("/proc/self/pagemap").open("rb", buffering=0) as entries:
        entries.seek((mapping.start + start) // PAGE * 8)
        data = entries.read((stop - start) // PAGE * 8)
    return sum(entry >> 63 for (entry,) in struct.iter_unpack("<Q", data))


@linux
def test_mappings_are_found(file: Path, mapped: mmap.mmap) -> None:
    found = read_only_mappings(file)
    assert [m.stop - m.start for m in found] == [4 * MIB, 8 * MIB, 4 * MIB]
    assert [m.random for m in found] == [False, True, False]
    assert [m.offset for m in found] == [0, 4 * MIB, 12 * MIB]
    assert found[0].stop == found[1].start and found[1].stop == found[2].start
    assert ctypes.string_at(found[1].start, 8) == mapped[ROWS.start : ROWS.start + 8]


@linux
def test_mappings_that_can_be_written_are_left_alone(file: Path) -> None:
    for access in (mmap.ACCESS_WRITE, mmap.ACCESS_COPY):
        with file.open("r+b") as stream, mmap.mmap(stream.fileno(), 0, access=access):
            assert not read_only_mappings(file)


@linux
def test_without_tensors_all_pages_go_and_come_back(file: Path, mapped: mmap.mmap) -> None:
    touch(mapped)
    before = resident(file)
    assert before == {False: 8 * MIB, True: 8 * MIB}
    FilePages(file).after_load()
    assert resident(file) == {False: 0, True: 0}
    assert mapped[:] == file.read_bytes()


@linux
def test_rows_are_released_after_some_tokens(file: Path, mapped: mmap.mmap) -> None:
    held = FilePages(file)
    touch(mapped)
    for _ in range(ROWS_KEPT - 1):
        held.after_decode(1)
    assert resident(file)[True] == 8 * MIB
    held.after_decode(1)
    assert resident(file) == {False: 8 * MIB, True: 0}
    touch(mapped)
    held.after_decode(ROWS_KEPT - 1)
    assert resident(file)[True] == 8 * MIB
    held.after_decode(128)
    assert resident(file)[True] == 0


@linux
def test_what_was_read_goes_and_the_rest_is_there(file: Path, mapped: mmap.mmap) -> None:
    """A tensor that loading has read was copied. Its first and last page may belong to others too."""
    mapped.madvise(mmap.MADV_NORMAL)
    mapped.madvise(mmap.MADV_NOHUGEPAGE)
    needed, copied, small, late = (
        (0, 3 * MIB),
        (3 * MIB, 8 * MIB + 100),
        (11 * MIB + 100, 200),
        (14 * MIB, MIB),
    )
    FilePages(file).after_load()
    assert len(mapped[3 * MIB : 12 * MIB])
    FilePages(file, [needed, copied, small, late]).after_load()
    assert n_mapped(file, 0, 3 * MIB) == 3 * MIB // PAGE
    assert n_mapped(file, 3 * MIB, 11 * MIB) == 0
    assert n_mapped(file, 11 * MIB, 11 * MIB + PAGE) == 1
    assert n_mapped(file, 14 * MIB, 15 * MIB) == MIB // PAGE
    assert mapped[:] == file.read_bytes()


@linux
def test_a_file_without_rows_is_never_released_again(
    file: Path, mapped: mmap.mmap, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapped.madvise(mmap.MADV_NORMAL)
    held = FilePages(file)
    monkeypatch.setattr(resident_pages, "madvise", lambda: pytest.fail("released"))
    held.after_decode(10 * ROWS_KEPT)
    assert held.matrices and not held.rows


def test_no_file_means_no_mappings(tmp_path: Path) -> None:
    assert read_only_mappings(tmp_path / "absent") == []
    held = FilePages(None)
    held.after_load()
    held.after_decode(1000)
    assert held.matrices == held.rows == ()


@pytest.mark.parametrize("platform", ["win32", "freebsd14"])
def test_other_systems_keep_their_pages(file: Path, monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resident_pages, "madvise", lambda: pytest.fail("there is no madvise"))
    assert read_only_mappings(file) == []
    FilePages(file).after_load()


def test_a_file_numbered_differently_is_found_by_name(file: Path) -> None:
    lines = [
        f"7f0000000000-7f0000002000 r--s 00001000 00:2f 77                         {file}\n",
        "Rss:                   8 kB\n",
        "VmFlags: rd mr me ms rr\n",
        "7f0000002000-7f0000003000 rw-p 00000000 00:00 0 \n",
        "VmFlags: rd wr mr mw me ac\n",
        f"7f0000003000-7f0000004000 rw-s 00000000 00:2f 77                         {file}\n",
        "VmFlags: rd wr rr\n",
        "7f0000004000-7f0000005000 r--s 00000000 00:2f 78                         /lib/other.so\n",
        "VmFlags: rd mr\n",
    ]
    assert list(resident_pages.parse_smaps(lines, file)) == [
        Mapping(0x7F0000000000, 0x7F0000002000, 4096, random=True)
    ]


def test_a_region_of_macos_is_read() -> None:
    """struct proc_regionwithpathinfo: 96 bytes of region, 152 of vnode, 1024 of path."""
    region = struct.pack("<4IQ14I2Q", 5, 7, 0, 0, 0, *range(14), 0x104000000, 0x8000)
    data = region + bytes(152) + b"/models/e2b \xc3\xa4.gguf".ljust(1024, b"\0")
    assert len(data) == resident_pages_macos._SIZE
    assert resident_pages_macos.parse_region(data) == (0x104000000, 0x104008000, False, "/models/e2b ä.gguf")
    assert resident_pages_macos.parse_region(struct.pack("<I", 3) + data[4:])[2] is True


# Sessions


@linux
def test_a_session_leaves_the_table_in_the_file(converted: Callable[..., dict[str, Path]]) -> None:
    path = converted("e2b")["model"]
    tensors = open_gguf(path).tensors
    table, n_bytes = tensors["per_layer_token_embd.weight"], sum(info.n_bytes for info in tensors.values())
    with Session(path, projector=None, device="cpu", n_ctx=256, release_pages=False):
        assert resident(path)[True] == 0
        assert resident(path)[False] >= n_bytes
    with Session(path, projector=None, device="cpu", n_ctx=256) as session:
        assert resident(path)[True] == 0
        assert 0 < resident(path)[False] < n_bytes
        session.ask("Hello", max_tokens=ROWS_KEPT, temperature=0)
        (rows,) = session.engine.model.pages.rows
        assert table.n_bytes <= rows.stop - rows.start <= table.n_bytes + 2 * PAGE


@pytest.mark.parametrize("member", ["e2b", "31b"])
def test_released_pages_change_no_logit(converted: Callable[..., dict[str, Path]], member: str) -> None:
    path = converted(member)["model"]
    logits = {}
    for release in (False, True):
        with Session(
            path, projector=None, device="cpu", n_ctx=512, n_threads=1, release_pages=release
        ) as session:
            logits[release] = session.logits(list(range(10, 210)))
    np.testing.assert_array_equal(logits[True], logits[False])


def test_a_closed_session_releases_nothing(
    converted: Callable[..., dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies at those addresses then may be somebody's only copy."""
    session = Session(converted("e2b")["model"], projector=None, device="cpu", n_ctx=256)
    model = session.engine.model
    session.close()
    monkeypatch.setattr(resident_pages, "madvise", lambda: pytest.fail("released"))
    model.pages.after_load()
    model.pages.after_decode(10 * ROWS_KEPT)
