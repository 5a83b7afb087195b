"""Damaged inputs end in a typed error or an answer: no death, no hang, no swelling, no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from campaign import harness

SUBJECTS = sorted(
    path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("harness", "test_campaign")
)


@pytest.mark.campaign
@pytest.mark.parametrize("subject", SUBJECTS)
def test_damaged_inputs(subject: str, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = harness.run(subject)
    with capsys.disabled():
        print(f"\n{subject}: {outcome}")
    assert not outcome.faults, str(outcome)
