"""No object of a reply gets a member twice, also where the schema leaves the names open."""

from __future__ import annotations

import numpy as np
import pytest

from gemma4_gguf import Session
from gemma4_gguf.engine.member_names import MemberNames
from gemma4_gguf.structured_output import as_constraint, tool_constraint

JSON = {
    '{"a": 1, "b": {"a": 2}, "c": [{"a": 1}, {"a": 1}]}': True,
    '{"a": 1, "b": 2, "a"': False,
    '{"a": "a", "b": "\\"a\\""}': True,
    '{"\\u0061": 1, "a"': False,
    '{"x": {"y": 1, "y"': False,
    '["a", "a", {}]': True,
}
CALLS = {
    "f{a:1,b:{a:2},c:[{a:1},{a:1}]}": True,
    "f{a:1,a:": False,
    "f{a:[1,a],b:true}": True,
    "f{x:{y:1,y:": False,
}


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize(
    ("text", "fine", "in_call"), [(*c, False) for c in JSON.items()] + [(*c, True) for c in CALLS.items()]
)
def test_names_that_come_again_are_told(text: str, fine: bool, in_call: bool, size: int) -> None:
    names, data = MemberNames(in_call), text.encode()
    told = [names.feed(data[at : at + size]) for at in range(0, len(data), size)]
    assert all(told) == fine
    assert all(told[:-1])


OPEN = {
    "type": "object",
    "additionalProperties": {"type": "integer", "maximum": 9, "minimum": 0},
    "propertyNames": {"pattern": "^[ab]{1,2}$"},
    "minProperties": 1,
}
TOOL = {"name": "f", "parameters": OPEN}


@pytest.mark.parametrize(
    "constraint", [as_constraint(OPEN), tool_constraint([TOOL], parallel=False)], ids=["json", "call"]
)
def test_no_name_is_drawn_twice(session: Session, constraint: object) -> None:
    """Every token that the guide lets through, drawn blindly: names of two letters would soon come again."""
    for seed in range(4):
        rng, written = np.random.default_rng(seed), ""
        guide = session.engine.guide(constraint.grammar)  # type: ignore[attr-defined]
        for _ in range(120):
            mask = guide.mask()
            tokens = rng.permutation(np.flatnonzero(mask))
            token = next((int(t) for t in tokens if not guide.doubles(int(t))), None)
            if token is None or guide.finished:
                break
            guide.commit(token)
        written = guide.text
        names = [
            part.split(":")[0].strip('" ') for part in written.replace("{", ",").split(",") if ":" in part
        ]
        names = [name for name in names if name and "call" not in name and name != "f"]
        assert len(names) == len(set(names)) and names, written
