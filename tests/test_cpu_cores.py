"""Cores: affinity, hyper-threads and the limits of containers, of both versions of control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gemma4_gguf import cpu_cores
from gemma4_gguf.cpu_cores import allowed_cpus, logical_cores, physical_cores


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight processors on four cores, in a control group "outer/inner" without limits."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(cpu_cores, "_SIBLINGS", str(tmp_path / "siblings-{}"))
    monkeypatch.setattr(cpu_cores, "_CGROUPS", tmp_path)
    monkeypatch.setattr(cpu_cores, "_OWN_GROUPS", tmp_path / "own")
    for cpu in range(8):
        (tmp_path / f"siblings-{cpu}").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    (tmp_path / "own").write_text("0::/outer/inner\n")
    for group in ("outer/inner", "cpu/docker/abc"):
        (tmp_path / group).mkdir(parents=True)
    return tmp_path


def test_without_limits(machine: Path) -> None:
    (machine / "outer/cpu.max").write_text("max 100000\n")
    assert (logical_cores(), physical_cores(), allowed_cpus()) == (8, 4, frozenset(range(8)))


@pytest.mark.parametrize("group", [".", "outer", "outer/inner"])
@pytest.mark.parametrize(
    ("limit", "logical", "physical"),
    [
        ("200000 100000", 2, 2),
        ("600000 100000", 6, 4),
        ("150000 100000", 1, 1),
        ("765000 100000", 7, 4),
        ("20000 100000", 1, 1),
        ("max 100000", 8, 4),
        ("rubbish", 8, 4),
        ("100 0", 8, 4),
    ],
)
def test_a_limit_anywhere_above_counts(
    machine: Path, group: str, limit: str, logical: int, physical: int
) -> None:
    (machine / group / "cpu.max").write_text(limit)
    assert (logical_cores(), physical_cores()) == (logical, physical)


@pytest.mark.parametrize(("quota", "cores"), [(200_000, 2), (-1, 8), (50_000, 1)])
def test_limits_of_the_first_version(machine: Path, quota: int, cores: int) -> None:
    (machine / "own").write_text("12:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/system\n")
    (machine / "cpu/docker/abc/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (machine / "cpu/docker/abc/cpu.cfs_period_us").write_text("100000\n")
    assert logical_cores() == cores


def test_affinity_and_a_kernel_without_groups(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "own").unlink()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5}, raising=False)
    assert (logical_cores(), physical_cores()) == (2, 1)


def test_systems_without_affinity(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    (machine / "own").unlink()
    assert (logical_cores(), physical_cores(), len(allowed_cpus())) == (6, 6, 6)


def test_everybody_counts_alike() -> None:
    from gemma4_gguf.doctor.host import describe_machine
    from gemma4_gguf.engine.openmp import WaitPolicy

    assert 1 <= physical_cores() <= logical_cores() == describe_machine().cores
    assert WaitPolicy().cores == allowed_cpus()
