"""The checkpoint that comes with the package: damage is found, and places that cannot be written are told."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gemma4_gguf import Box, demo, draw_boxes
from gemma4_gguf.cli.main import main
from gemma4_gguf.errors import CheckpointError, OutputError
from gemma4_gguf.nano import bundled
from gemma4_gguf.nano.bundled import CHECKSUMS, bundled_checkpoint, check_files, write_checksums

NANO = Path(bundled.__file__).parent
LISTED: list[str] = sorted(json.loads((NANO / CHECKSUMS).read_text("utf-8")))


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the bundled checkpoint that the library takes for it."""
    folder = shutil.copytree(NANO, tmp_path / "nano")
    monkeypatch.setattr(bundled, "files", lambda package: folder)
    return folder


def test_what_is_shipped_is_what_is_listed() -> None:
    with bundled_checkpoint() as folder:
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    unlisted = {name for name in there - set(LISTED) if not name.endswith((".py", ".pyc"))}
    assert unlisted == {"README.md", CHECKSUMS}, "run tests/reference/bundled.py"
    assert "model.safetensors" in LISTED and "reference.npz" in LISTED


def test_a_changed_byte_is_found_in_every_file(copy: Path) -> None:
    check_files(copy)
    for name in LISTED:
        path = copy / name
        good = path.read_bytes()
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 1
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match=rf"damaged.*{name} differs.*(pip install|git -C)"):
            check_files(copy)
        path.write_bytes(good)
    check_files(copy)


def test_half_a_file_and_a_missing_one_are_found(copy: Path) -> None:
    weights = copy / "model.safetensors"
    size = weights.stat().st_size
    with weights.open("r+b") as stream:
        stream.truncate(size // 2)
    with pytest.raises(CheckpointError, match=f"has {size // 2:,} bytes, expected {size:,}"):
        check_files(copy)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        check_files(copy)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"config.json": 1}', b'{"config.json": {"bytes": 1}}', None]
)
def test_a_damaged_list_is_found(content: bytes | None, copy: Path) -> None:
    (copy / CHECKSUMS).unlink()
    if content is not None:
        (copy / CHECKSUMS).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{CHECKSUMS} (is no list|cannot be read)"):
        check_files(copy)


def test_the_list_is_written_as_it_is_read(copy: Path) -> None:
    before = (copy / CHECKSUMS).read_bytes()
    write_checksums(copy)
    assert (copy / CHECKSUMS).read_bytes() == before, "run tests/reference/bundled.py"
    (copy / "samples" / "new.txt").write_text("new")
    write_checksums(copy)
    assert "samples/new.txt" in json.loads((copy / CHECKSUMS).read_text("utf-8"))


@pytest.mark.parametrize(
    ("origin", "way_out"),
    [
        (None, "pip install --force-reinstall --no-deps gemma4-gguf"),
        ('{"url": "https://x.org/a.whl"}', "pip install --force-reinstall --no-deps https://x.org/a.whl"),
        ('{"url": "file:///src", "dir_info": {"editable": true}}', "git -C"),
        ("damaged", "pip install --force-reinstall --no-deps gemma4-gguf"),
    ],
)
def test_the_way_out_fits_the_installation(
    origin: str | None, way_out: str, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = type("Installed", (), {"read_text": lambda self, name: origin})
    monkeypatch.setattr(bundled.metadata, "distribution", lambda name: installed())
    (copy / "config.json").unlink()
    with pytest.raises(CheckpointError, match=way_out):
        check_files(copy)


def test_demo_and_doctor_tell_damage(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "tokenizer.json").write_text("{}")
    assert main(["demo"]) == 3
    assert "tokenizer.json has 2 bytes" in capsys.readouterr().err
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "tokenizer.json has 2 bytes" in " ".join(out.split()) and "Wrong: 1 thing" in out


# Places


def fail(code: int) -> Any:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


class Fake:
    """A session that answers without a model."""

    def detect(self, *_: Any, **__: Any) -> list[Box]:
        return [Box("x", 10, 10, 50, 50)]


@pytest.fixture
def files(tmp_path: Path) -> demo.Converted:
    """A converted demo with one picture."""
    picture = Path(shutil.copyfile(NANO / "samples/scene1.png", tmp_path / "scene1.png"))
    acts = ({"ability": "eyes", "file": picture.name, "what": "every object"},)
    return demo.Converted(tmp_path / "m.gguf", tmp_path / "p.gguf", (picture,), acts, 0.0)


def test_demo_without_a_place_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for where in (tmp_path / "file", tmp_path / "file" / "x"):
        assert main(["demo", "--keep", str(where)]) == 5
        assert f"nothing can be written into {where}" in capsys.readouterr().err


def test_demo_without_a_temporary_directory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "mkdtemp", fail(errno.EROFS))
    assert main(["demo"]) == 5
    assert "--keep DIR" in capsys.readouterr().err


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_drawing_that_cannot_be_written(
    code: int, files: demo.Converted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.Image.Image.save", fail(code))
    with pytest.raises(OutputError, match=rf"-boxes\.png: {os.strerror(code)}"):
        list(demo.perform(Fake(), files))  # type: ignore[arg-type]


def test_the_demo_opens_no_window(files: demo.Converted, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("PIL.Image.Image.show", fail(errno.EIO))
    monkeypatch.setattr("webbrowser.open", fail(errno.EIO))
    [shown] = demo.perform(Fake(), files)  # type: ignore[arg-type]
    assert shown.drawing is not None
    with Image.open(shown.drawing) as drawn, Image.open(files.samples[0]) as picture:
        times = drawn.width // picture.width
        large = picture.convert("RGB").resize(drawn.size, Image.Resampling.LANCZOS)
        expected = draw_boxes(large, [Box("x", *(side * times for side in (10, 10, 50, 50)))])
        assert drawn.width >= demo.MIN_WIDTH and drawn.tobytes() == expected.tobytes()
