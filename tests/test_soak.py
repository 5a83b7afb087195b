"""A short soak: requests of every kind leave nothing behind. tests/bench/soak.py is the long one."""

from __future__ import annotations

import sys

import pytest
from bench import soak

from gemma4_gguf import Session

# Too few requests for the bound of the bench: this one still catches a picture or a context kept per request.
GROWTH = 0.15


@pytest.mark.skipif(sys.platform == "win32", reason="reads resident memory")
def test_memory_stays(session: Session) -> None:
    result = soak.soak(session, n_requests=40, n_warmup=20)
    assert result["growth"] < GROWTH
    assert sum(result["kinds"].values()) == 40
    assert {"text", "chat", "picture", "schema", "cancelled"} == {
        kind for kind, n in result["kinds"].items() if n
    }


def test_a_leak_would_be_seen(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    n_bytes = soak.resident_bytes() // 40

    def leaky(session: Session) -> dict:
        return {"leak": lambda i: kept.append(b"x" * n_bytes)}

    monkeypatch.setattr(soak, "requests_of", leaky)
    assert soak.soak(session, n_requests=20, n_warmup=10)["growth"] > GROWTH
