"""Limits of replies with a schema that says none: a model that repeats itself ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from gbnf_tools import Judge
from pydantic import BaseModel, Field

from gemma4_gguf import Session, structured_output
from gemma4_gguf.engine.guided_sampler import GuidedSampler
from gemma4_gguf.errors import IncompleteReplyError
from gemma4_gguf.grammars.sources import pattern_grammar
from gemma4_gguf.reply import value_limits
from gemma4_gguf.structured_output import as_constraint


class Note(BaseModel):
    word: str


def looping(monkeypatch: pytest.MonkeyPatch, session: Session, start: str, again: str) -> list[int]:
    """Makes the sampler repeat itself as long as the grammar lets it, and end as soon as that is over."""
    drawn: list[int] = []
    first, more = iter(session.tokenize(start)), session.tokenize(again)

    def draw(sampler: GuidedSampler, *_: Any) -> int:
        mask = sampler.guide.mask()
        assert mask is not None
        wanted = next(first, more[len(drawn) % len(more)])
        token = wanted if mask[wanted] else int(np.flatnonzero(mask)[0])
        sampler.guide.commit(token)
        drawn.append(token)
        return token

    monkeypatch.setattr(GuidedSampler, "draw", draw)
    return drawn


@pytest.fixture(scope="module")
def wide_session(nano: Path) -> Iterator[Session]:
    with Session(nano, projector=None, n_ctx=8192, n_threads=2) as session:
        yield session


@pytest.mark.parametrize("schema", [Note, Note.model_json_schema(), {"type": "string"}, list[str]])
def test_a_text_that_repeats_itself_ends(
    wide_session: Session, monkeypatch: pytest.MonkeyPatch, schema: Any
) -> None:
    """It ends at MAX_TEXT characters with a warning, or at the tokens its schema needs with an error."""
    monkeypatch.setattr(value_limits, "MAX_TEXT", 40)
    monkeypatch.setattr(structured_output, "MAX_TEXT", 40)
    monkeypatch.setattr(value_limits, "MAX_TOKENS", 120)
    start = {"string": '"', "array": '["'}.get(type_schema_of(schema), '{"word": "')
    drawn = looping(monkeypatch, wide_session, start, "circle" if schema != list[str] else 'circle", "')
    if schema == list[str]:
        with pytest.raises(IncompleteReplyError, match=r"(?s)more than its schema.*max_tokens.*maxLength"):
            wide_session.ask("x", schema=schema)
        assert len(drawn) <= value_limits.sensible_tokens(structured_output.type_schema(schema)) + 1
        return
    reply = wide_session.ask("x", schema=schema)
    assert reply.finish_reason == "stop" and len(drawn) < 100
    assert "40 characters" in reply.warnings[0] and "maxLength" in reply.warnings[0]


def type_schema_of(schema: Any) -> str:
    return str((schema if isinstance(schema, dict) else structured_output.type_schema(schema))["type"])


def test_what_was_asked_for_is_the_limit(wide_session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    looping(monkeypatch, wide_session, "", "circle")
    letters = structured_output.Constraint("pattern", pattern_grammar("[a-z ]+"), str, max_tokens=20)
    for options, n_tokens in (({}, 20), ({"max_tokens": 30}, 30)):
        with pytest.raises(IncompleteReplyError) as caught:
            wide_session.ask("x", schema=letters, **options)
        assert caught.value.reply.usage.completion_tokens == n_tokens
        assert ("repeating itself" in str(caught.value)) == (n_tokens == 20)


LENGTHS: list[tuple[Any, int]] = [
    ({"type": "string"}, 200),
    ({"type": ["string", "null"]}, 200),
    ({"description": "a text", "type": "string", "format": "unknown"}, 200),
    ({"type": "string", "minLength": 150}, 300),
    ({"type": "string", "maxLength": 900}, 900),
    ({"$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a", "maxLength": 900}, 900),
    ({"$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a"}, 200),
    ({"allOf": [{"type": "string"}, {"maxLength": 250}]}, 250),
    ({"type": "string", "pattern": "^a{0,260}$"}, 260),
    ({"type": "string", "not": {"const": "a"}}, 200),
]


@pytest.mark.parametrize(("schema", "longest"), LENGTHS)
def test_open_texts_get_a_length(
    schema: dict[str, Any], longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structured_output, "MAX_TEXT", 200)
    before = json.dumps(schema)
    judge = Judge(as_constraint(schema).grammar)
    assert judge.accepts(f'"{"a" * longest}"') and not judge.accepts(f'"{"a" * (longest + 1)}"')
    assert json.dumps(schema) == before


class Leaf(BaseModel):
    name: str = Field(max_length=9)
    ok: bool


class Tree(BaseModel):
    name: str
    left: Tree | None
    right: list[Tree]
    up: dict[str, Tree]


NEEDS: list[tuple[Any, int, int]] = [
    (bool, 1, 200),
    (Leaf, 20, 300),
    (Note, 500, 2500),
    (list[Leaf], 1000, 5000),
    (Tree, 1000, 5000),
    (dict[str, Any], 4000, 5000),
    (Annotated[str, Field(max_length=50_000)], 50_000, 10**6),
    (Annotated[list[int], Field(max_length=5_000)], 20_000, 10**6),
]


@pytest.mark.parametrize(("type_", "least", "most"), NEEDS, ids=[str(case[0]) for case in NEEDS])
def test_a_limit_fits_the_schema(type_: Any, least: int, most: int) -> None:
    limit = as_constraint(type_).max_tokens
    assert limit is not None and least <= limit <= most
    assert as_constraint(["yes", "no"]).max_tokens is None


def test_a_limit_of_a_large_schema_is_found_at_once() -> None:
    part = {"type": "object", "properties": {f"p{i}": {"$ref": "#/$defs/part"} for i in range(200)}}
    assert value_limits.sensible_tokens({"$ref": "#/$defs/part", "$defs": {"part": part}}) < 5_000
    deep: Any = {"type": "string"}
    for _ in range(100_000):
        deep = {"type": "array", "items": deep}
    assert value_limits.sensible_tokens(deep) < 5_000
