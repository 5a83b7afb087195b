"""Ctrl-C while another thread computes: nothing goes on behind the back of the one that asked."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from gemma4_gguf.engine.compute_thread import compute


@pytest.mark.parametrize("begun", [False, True])
def test_work_is_over_when_an_exception_is_raised(begun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C may come before the work has begun, while it is handed over, or later."""
    gate, stopped, ran = threading.Event(), threading.Event(), []

    def work() -> None:
        ran.append(1)
        gate.set()
        stopped.wait(20)
        ran.append(2)

    class Handle:
        def __init__(self, job: Callable[[], None]) -> None:
            self.thread = threading.Thread(target=job)
            if begun:
                self.thread.start()
                gate.wait(20)

    handles: list[Handle] = []

    class Worker:
        def submit(self, job: Callable[[], None]) -> None:
            handles.append(Handle(job))
            raise KeyboardInterrupt

    monkeypatch.setattr("gemma4_gguf.engine.compute_thread.worker", Worker())
    with pytest.raises(KeyboardInterrupt):
        compute(work, stopped.set)
    assert ran == [1, 2] * begun and stopped.is_set() == begun
    if not begun:
        handles[0].thread.start()
    handles[0].thread.join()
    assert ran == [1, 2] * begun, "what was called off never runs"
