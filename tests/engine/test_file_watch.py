"""A file that is cut, overwritten, replaced or deleted while it is open."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from nano_samples import scene

from gemma4_gguf import Session
from gemma4_gguf.errors import EngineError


def _cut(path: Path) -> None:
    os.truncate(path, 100_000)


def _empty(path: Path) -> None:
    path.open("wb").close()


def _grow(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"\0" * 32)


def _overwrite(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(-1000, os.SEEK_END)
        stream.write(bytes(1000))


def _copy_over(path: Path) -> None:
    other = path.with_suffix(".other")
    shutil.copyfile(path, other)
    shutil.copyfile(other, path)


@pytest.mark.parametrize("which", ["model", "projector"])
@pytest.mark.parametrize("change", [_cut, _empty, _grow, _overwrite, _copy_over])
def test_a_changed_file_is_noticed(
    change: Callable[[Path], None], which: str, nano: Path, tmp_path: Path
) -> None:
    for file in nano.parent.glob("*.gguf"):
        shutil.copyfile(file, tmp_path / file.name)
    model = tmp_path / nano.name
    with Session(model, device="cpu", n_ctx=256, n_threads=1) as session:
        stream = session.stream("Hello", temperature=0)
        next(stream)
        change(model if which == "model" else next(tmp_path.glob("mmproj*.gguf")))
        if which == "model":
            with pytest.raises(EngineError, match="was changed"):
                list(stream)
            with pytest.raises(EngineError, match="was changed"):
                session.ask("Hello")
            with pytest.raises(EngineError, match="was changed"):
                session.logits([2, 5])
        else:
            list(stream)
        with pytest.raises(EngineError, match="was changed"):
            session.ask(scene(0), "detect")


def _replace(path: Path) -> None:
    shutil.copyfile(path, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be replaced there")
@pytest.mark.parametrize("change", [Path.unlink, _replace])
def test_a_replaced_or_deleted_file_stays_open(
    change: Callable[[Path], None], nano: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copyfile(nano, tmp_path / nano.name))
    with Session(model, projector=None, device="cpu", n_ctx=256, n_threads=1) as session:
        answer = session.ask("Hello", temperature=0).text
        change(model)
        assert session.ask("Hello", temperature=0).text == answer


def test_a_file_that_changes_between_its_check_and_its_loading(nano: Path, tmp_path: Path) -> None:
    from gemma4_gguf.engine.model import Model
    from gemma4_gguf.files.model_file import check_model

    model = Path(shutil.copyfile(nano, tmp_path / nano.name))
    facts = check_model(model)
    _overwrite(model)
    with pytest.raises(EngineError, match="was changed"):
        Model(facts, device="cpu")
