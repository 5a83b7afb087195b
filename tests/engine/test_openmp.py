"""Other programs on the cores: when threads wait asleep, and that nothing else changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gemma4_gguf import Session
from gemma4_gguf.engine.openmp import CALM_WINDOWS, IdleTeam, WaitPolicy, busy_seconds

STAT = """\
cpu  400 0 80 2000 0 0 20 0 0 0
cpu0 100 10 20 1000 5 1 4 0 0 0
cpu1 200 0 30 900 5 0 6 0 0 0
cpu2 9000 0 0 0 0 0 0 0 0 0
intr 1 2 3
"""


def test_busy_time_of_the_cores_that_count() -> None:
    assert busy_seconds(STAT.splitlines(), frozenset({0, 1})) == pytest.approx(371 / 100)
    assert busy_seconds(STAT.splitlines(), frozenset({0})) == pytest.approx(135 / 100)


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> WaitPolicy:
    """Of a machine with four cores, whose idle team is only noted."""
    monkeypatch.setattr("gemma4_gguf.engine.openmp.allowed_cpus", lambda: frozenset(range(4)))
    nothing = {"__init__": lambda *_: None, "release": lambda _: None}
    monkeypatch.setattr("gemma4_gguf.engine.openmp.IdleTeam", type("Noted", (), nothing))
    return WaitPolicy()


def test_threads_wait_asleep_while_others_need_their_cores(policy: WaitPolicy) -> None:
    policy.expect(4)
    policy.apply(0.1)
    assert not policy.is_passive
    policy.apply(1.0)
    assert policy.is_passive
    for _ in range(CALM_WINDOWS - 1):
        policy.apply(0.0)
    assert policy.is_passive, "calm has to last"
    policy.apply(0.5)
    for _ in range(CALM_WINDOWS):
        assert policy.is_passive
        policy.apply(0.0)
    assert not policy.is_passive


def test_cores_that_nobody_wants_are_free_for_others(policy: WaitPolicy) -> None:
    policy.expect(2)
    policy.apply(2.0)
    assert not policy.is_passive
    policy.expect(3)
    policy.apply(2.0)
    assert policy.is_passive


def test_load_is_measured_between_decodes(policy: WaitPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    # 1 of 2 busy seconds is not ours; then a long pause in which others were busy
    reads = iter([(100.0, 50.0, 10.0), (100.5, 52.0, 11.0), (110.5, 90.0, 11.0), None])
    seen: list[float] = []
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr(WaitPolicy, "read_load", lambda _: next(reads))
    monkeypatch.setattr(WaitPolicy, "apply", lambda _, others: seen.append(others))
    policy.update()
    policy.expect(4)
    clock[0] = 100.1
    policy.update()
    assert seen == [], "too soon"
    clock[0] = 100.5
    policy.update()
    assert seen == [pytest.approx(2.0)]
    clock[0] = 110.5
    policy.update()
    assert len(seen) == 1, "what was long ago does not count"
    clock[0] = 111.0
    policy.update()
    policy.update()
    assert len(seen) == 1, "a system that stops telling is left alone"


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux shows them")
def test_the_idle_team_is_threads_that_go_again(
    converted: Callable[..., dict[str, Path]],
) -> None:
    def n_threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    with Session(converted("e2b")["model"], projector=None, n_ctx=64, n_threads=2) as session:
        expected = session.logits([2, 5, 6])
        before = n_threads()
        team = IdleTeam(3)
        try:
            wait_until(lambda: n_threads() >= before + 3)
            np.testing.assert_array_equal(session.logits([2, 5, 6]), expected)
        finally:
            team.release()
        wait_until(lambda: n_threads() == before)


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
