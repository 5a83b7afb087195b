"""Fixtures shared by every test: tiny checkpoints and their GGUF files, built when first asked for."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import parity
import pytest
import tiny
from hypothesis import settings

from gemma4_gguf import Session

# Background jobs of shells ignore Ctrl-C; tests send it to themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples on every run: a failure is about the change at hand. HYPOTHESIS_PROFILE=explore looks
# for new ones.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """checkpoint(member, **options) -> directory of that tiny checkpoint. Shared: do not write into it."""
    made: dict[tuple[Any, ...], Path] = {}

    def build(member: str, **options: Any) -> Path:
        key = (member, repr(sorted(options.items())))
        if key not in made:
            folder = tmp_path_factory.mktemp(member) / f"tiny-{member}"
            made[key] = tiny.write_checkpoint(member, folder, **options)
        return made[key]

    return build


@pytest.fixture(scope="session")
def converted(
    checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., dict[str, Path]]:
    """converted(member, quant="F32", projector_type="F32", **options) -> {"model": path, "projector": path}.

    Members without a projector lack that key. The options are those of tiny.write_checkpoint. Shared: do not
    write into the directory.
    """
    made: dict[tuple[Any, ...], dict[str, Path]] = {}

    def convert(
        member: str, quant: str = "F32", projector_type: str = "F32", **options: Any
    ) -> dict[str, Path]:
        from gemma4_gguf.convert import convert_checkpoint

        key = (member, quant, projector_type, repr(sorted(options.items())))
        if key not in made:
            out = tmp_path_factory.mktemp(f"gguf-{member}-{quant}")
            files = convert_checkpoint(checkpoint(member, **options), out, quant, projector_type)
            made[key] = {"model": files.model}
            if files.projector is not None:
                made[key]["projector"] = files.projector
        return made[key]

    return convert


NANO = Path(__file__).resolve().parents[1] / "gemma4_gguf" / "nano"


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained checkpoint as Q4_K_M, its BF16 projector beside it. Shared: do not write beside it."""
    from gemma4_gguf.convert import convert_checkpoint

    return convert_checkpoint(NANO, tmp_path_factory.mktemp("nano"), "Q4_K_M", "BF16").model


@pytest.fixture(scope="session")
def session(nano: Path) -> Iterator[Session]:
    """A session on the trained checkpoint, for one conversation of 1024 tokens."""
    with Session(nano, device="cpu", n_ctx=1024, n_threads=2) as opened:
        yield opened


LIVE = pytest.param("live", marks=pytest.mark.reference)


@pytest.fixture(scope="session", params=["recorded", LIVE])
def references(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of what transformers computes: recorded, and under `-m reference` computed now as well."""
    if request.param == "recorded":
        return parity.REFERENCES
    from reference import record

    out = tmp_path_factory.mktemp("references")
    record.record_all(out, tmp_path_factory.mktemp("reference-checkpoints"))
    return out


@pytest.fixture(scope="session", params=["recorded", LIVE])
def upstream_records(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of what llama.cpp's converter writes: recorded, and under `-m reference` also as of now."""
    if request.param == "recorded":
        return parity.REFERENCES
    from reference import upstream

    if not os.environ.get(upstream.SOURCE_VARIABLE):
        pytest.skip(f"{upstream.SOURCE_VARIABLE} names no llama.cpp source tree")
    out = tmp_path_factory.mktemp("upstream")
    upstream.record_all(out, tmp_path_factory.mktemp("upstream-checkpoints"))
    return out
