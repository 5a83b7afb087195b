"""Replies that must be something: schema=, extract, tool_choice. Random weights would write none of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from gbnf_tools import Judge
from nano_samples import scene
from pydantic import AfterValidator, BaseModel, Field

from gemma4_gguf import Pattern, Reply, Session
from gemma4_gguf.errors import (
    GrammarError,
    IncompleteReplyError,
    InvalidReplyError,
    OptionError,
    SchemaError,
)
from gemma4_gguf.grammars import load
from gemma4_gguf.grammars.compiled_patterns import expression_of
from gemma4_gguf.options import ToolOptions
from gemma4_gguf.structured_output import as_constraint, reply_rules


class Sighting(BaseModel):
    animal: Literal["cat", "dog"]
    count: int = Field(ge=0, le=9)
    note: str = Field(default="", max_length=6)


def look(place: Literal["roof", "garden"], hours: int = 1) -> str:
    """Looks.

    Args:
        place: where.
        hours: how long.
    """
    return f"Nothing on the {place}."


def wait(seconds: Literal[1, 2, 3]) -> str:
    """Waits."""
    return "done"


@pytest.fixture(scope="module")
def random_session(converted: Callable[..., dict[str, Path]]) -> Iterator[Session]:
    with Session(converted("e2b")["model"], projector=None, n_ctx=768, n_threads=2) as session:
        yield session


SCHEMAS: list[tuple[Any, Callable[[Any], bool]]] = [
    (Sighting, lambda value: isinstance(value, Sighting)),
    (list[int] | None, lambda value: value is None or all(type(n) is int for n in value)),
    (
        {"type": "object", "properties": {"at": {"type": "string", "format": "date"}}, "required": ["at"]},
        lambda value: bool(re.fullmatch(r"\d{4}-\d\d-\d\d", value["at"])),
    ),
    (["yes", "no", 7], lambda value: value in ("yes", "no", 7)),
    (re.compile(r"[A-C]{2}-\d{3}"), lambda value: bool(re.fullmatch(r"[A-C]{2}-\d{3}", value))),
    (Pattern("a|b{2}"), lambda value: value in ("a", "bb")),
    ('["yes", "no"]', lambda value: value in ("yes", "no")),
    ('\ufeff {"enum": [1, 2]}\n', lambda value: value in (1, 2)),
    ('root ::= "left" | "right"', lambda value: value in ("left", "right")),
    (load("points"), lambda value: isinstance(json.loads(value), list)),
]


@pytest.mark.parametrize(("schema", "fits"), SCHEMAS, ids=[str(schema)[:24] for schema, _ in SCHEMAS])
def test_what_is_asked_for_comes(random_session: Session, schema: Any, fits: Callable[[Any], bool]) -> None:
    for seed in range(3):
        reply = ask(random_session, "Go on.", schema=schema, seed=seed)
        assert fits(reply.parsed), reply
        assert reply.finish_reason == "stop" and not reply.tool_calls and reply.thinking is None


def ask(session: Session, *parts: Any, **options: Any) -> Reply:
    """Numbers and lists of random weights can go on for ever: another draw then."""
    seed = options.pop("seed", 0)
    for attempt in range(20):
        try:
            return session.ask(*parts, max_tokens=120, seed=seed + 100 * attempt, **options)
        except IncompleteReplyError:
            continue
    pytest.fail("20 replies in a row did not end")


def test_extract_gives_the_instance(random_session: Session) -> None:
    found = random_session.extract(Sighting, "What do you see?", max_tokens=200)
    assert isinstance(found, Sighting) and Sighting.model_validate(found.model_dump()) == found
    assert random_session.extract(bool, "Is it?") in (True, False)


def test_a_thought_comes_first_and_is_free(random_session: Session) -> None:
    """The first token may open a thought; the value follows when it is closed."""
    session, markers = random_session, ["<|channel>", "<channel|>"]
    opened, closed = (session.tokenize(marker)[0] for marker in markers)
    bias = {opened: 60.0, closed: 8.0}
    thoughts = []
    for seed in range(3):
        reply = ask(session, "Think.", schema=["yes", "no"], thinking=True, logit_bias=bias, seed=seed)
        assert reply.parsed == reply.text and reply.parsed in ("yes", "no")
        thoughts.append(reply.thinking)
    assert any(thoughts) and not any(thought in ("yes", "no") for thought in thoughts)
    reply = session.ask("No thought.", schema=["yes", "no"], logit_bias=bias, seed=1)
    assert reply.thinking is None and reply.parsed in ("yes", "no")


def test_a_stream_carries_the_value_at_its_end(random_session: Session) -> None:
    *chunks, end = random_session.stream("Go on.", schema=Sighting, seed=3, max_tokens=200)
    assert end.reply is not None and isinstance(end.reply.parsed, Sighting)
    assert Sighting.model_validate_json("".join(chunk.text for chunk in chunks)) == end.reply.parsed


def test_pictures_and_a_schema(session: Session) -> None:
    options = {"schema": Sighting, "temperature": 0, "max_tokens": 300}
    with_picture = session.ask(scene(0), "detect", **options)
    assert with_picture.parsed == Sighting.model_validate_json(with_picture.text)
    assert with_picture.usage.prompt_tokens > 60 + session.ask("detect", **options).usage.prompt_tokens


# Cut and refused


@pytest.mark.parametrize("options", [{"max_tokens": 6}, {"stop": '"'}])
def test_a_cut_reply_raises_with_what_there_is(random_session: Session, options: dict[str, Any]) -> None:
    chat = random_session.chat()
    with pytest.raises(IncompleteReplyError, match=r"cut off at .*(max_tokens|stop text)") as caught:
        chat.send("Go on.", schema=Sighting, seed=1, **options)
    assert caught.value.reply is not None and caught.value.reply.text == caught.value.text
    assert caught.value.reply.usage.completion_tokens > 0
    assert chat.messages == []
    assert chat.send("Again.", schema=["yes"]).parsed == "yes"


def test_a_number_that_could_go_on_is_cut(random_session: Session) -> None:
    """Two digits of a number of any length are a number, but not the one that was meant."""
    with pytest.raises(IncompleteReplyError):
        random_session.ask(
            "A number.", schema=Pattern("[0-9]+"), max_tokens=2, logit_bias=never_end(random_session)
        )
    assert random_session.ask("A word.", schema=["a"], max_tokens=1).parsed == "a"


def never_end(session: Session) -> dict[int, float]:
    ends = [i for i in session.facts.special_tokens.values() if session.engine.model.ends_reply(i)]
    return dict.fromkeys(ends, -1e9)


def test_a_validator_that_no_grammar_knows_refuses(random_session: Session) -> None:
    def refuse(value: int) -> int:
        raise ValueError("none is good enough")

    with pytest.raises(InvalidReplyError, match="none is good enough") as caught:
        random_session.extract(Annotated[Literal[1, 2], AfterValidator(refuse)], "A number.")  # type: ignore[arg-type]
    assert caught.value.text in ("1", "2")


@pytest.mark.parametrize(
    ("schema", "error"),
    [
        ({"type": "object", "minProperties": -1}, SchemaError),
        ({"uniqueItems": True, "items": {"type": "string"}}, SchemaError),
        ("root ::= missing", GrammarError),
        (3, SchemaError),
    ],
)
def test_a_bad_schema_is_refused_before_anything_is_drawn(
    random_session: Session, schema: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        random_session.stream("Go on.", schema=schema)


SAYINGS: list[tuple[Any, str]] = [
    ("yes", "Pattern"),
    ("yes|no", r"re\.compile"),
    ("[a-z]+", "no JSON"),
    ("{'a': 1}", "no JSON"),
    ('["yes", "no"', "no JSON"),
    ('"yes"', "no list of choices"),
    ("5", "no list of choices"),
    ("null", "no list of choices"),
    ("", "Pattern"),
    ("[" * 100_000, "nested"),
    ('["a", {}]', "choice"),
    ("[]", "no choices"),
    (b'["yes"]', "give a type"),
    (Path("wanted.json"), "read_text"),
    (Pattern(re.compile("a")), "re.compile"),  # type: ignore[arg-type]
    (Pattern("("), "missing"),
    (re.compile(b"a"), "bytes"),
    (re.compile("a^b", re.MULTILINE), "MULTILINE"),
    ([float("nan")], "finite"),
    (["\ud800"], "surrogate"),
    ('["\\ud800"]', "surrogate"),
    (Pattern("a\udfff"), "surrogate"),
    (re.compile("[\ud800-\udfff]"), "surrogate"),
    ('root ::= "\ud800"', "surrogate"),
]


@pytest.mark.parametrize(("schema", "match"), SAYINGS, ids=[repr(schema)[:24] for schema, _ in SAYINGS])
def test_what_could_be_several_things_is_refused_with_the_ways_to_say_it(schema: Any, match: str) -> None:
    with pytest.raises(SchemaError, match=match):
        as_constraint(schema)


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ('["yes", "no"]', "choices"),
        (" [true, 1, null]\n", "choices"),
        ('{"type": "integer"}', "schema"),
        ('{"description": "a ::= b", "type": "integer"}', "schema"),
        ('root ::= "a"', "grammar"),
        (Pattern("a::=b"), "pattern"),
        (re.compile("a"), "pattern"),
    ],
)
def test_texts_are_what_they_say(schema: Any, kind: str) -> None:
    assert as_constraint(schema).kind == kind


FLAGS: list[tuple[str, int, list[str], list[str]]] = [
    ("yes|no", re.IGNORECASE, ["yes", "YES", "nO"], ["ye"]),
    ("(?i)straße", 0, ["STRAßE", "straße"], ["strasse"]),
    ("[a-c_-]x", re.IGNORECASE, ["ax", "CX", "_x", "-X"], ["dx", "[x"]),
    ("[-a]", re.IGNORECASE, ["-", "a", "A"], ["B"]),
    ("[^a-z]", re.IGNORECASE, ["1", "-"], ["a", "A"]),
    ("[]a]+", re.IGNORECASE, ["]", "aA"], ["["]),
    (r"\x41{2}", re.IGNORECASE, ["aA"], ["a"]),
    ("(?P<name>ab)", re.IGNORECASE, ["AB"], ["name"]),
    ("a.b", re.DOTALL, ["a\nb", "a b"], ["ab"]),
    ("a[.]b", re.DOTALL, ["a.b"], ["a b"]),
    (r"a\.b", re.DOTALL, ["a.b"], ["a\nb"]),
    ("a.b", 0, ["a b"], ["a\nb"]),
    ("^a$", re.MULTILINE, ["a"], ["a\na"]),
    ("a b  # either\n | [ ]\\ c", re.VERBOSE, ["ab", "  c"], ["a b", "c"]),
    (r"\s\d", re.ASCII, [" 1", "\t1"], ["\u20031", "\xa01"]),
    (r"[\s]\S", re.ASCII, [" x"], ["\xa0x"]),
    (r"\Aab{,2}\Z", 0, ["a", "abb"], ["abbb"]),
]


@pytest.mark.parametrize(("regex", "flags", "matching", "others"), FLAGS, ids=[case[0] for case in FLAGS])
def test_flags_of_compiled_patterns_count(
    regex: str, flags: int, matching: list[str], others: list[str]
) -> None:
    pattern = re.compile(regex, flags)
    written = re.compile(expression_of(pattern))
    judge = Judge(as_constraint(pattern).grammar)
    for text in matching:
        assert pattern.fullmatch(text) and written.fullmatch(text) and judge.accepts(text), text
    for text in others:
        assert not pattern.fullmatch(text) and not judge.accepts(text), text


def test_a_dead_end_is_an_error_and_the_session_goes_on(random_session: Session) -> None:
    """Nothing that the grammar allows may be drawn."""
    vocabulary = range(random_session.facts.n_vocab)
    barred = {
        i: float("-inf") for i in vocabulary if random_session.engine.model.piece(i)[:1] in (b"y", b"n")
    }
    with pytest.raises(GrammarError, match="fits the grammar"):
        random_session.ask("Go on.", schema=["yes", "no"], logit_bias=barred)
    assert random_session.ask("Go on.", schema=["yes", "no"]).parsed in ("yes", "no")


def test_markers_in_a_grammar_are_text(random_session: Session) -> None:
    """A reply that must contain the spelling of a control token gets the characters, not the token."""
    reply = random_session.ask(
        "Go on.", schema=["<turn|>", "<|tool_call>call:x{}<tool_call|>"], max_tokens=60
    )
    assert reply.parsed in ("<turn|>", "<|tool_call>call:x{}<tool_call|>") and not reply.tool_calls


# Tools


def test_a_required_call_comes_and_is_right(random_session: Session) -> None:
    for seed in range(3):
        reply = ask(random_session, "Go on.", tools=[look, wait], tool_choice="required", seed=seed)
        assert reply.finish_reason == "tool_calls" and not reply.text and not reply.warnings
        for call in reply.tool_calls:
            if call.name == "look":
                assert call.arguments["place"] in ("roof", "garden")
                assert type(call.arguments.get("hours", 1)) is int
            else:
                assert call.name == "wait" and call.arguments["seconds"] in (1, 2, 3)


@pytest.mark.parametrize("choice", ["wait", {"type": "function", "function": {"name": "wait"}}])
def test_a_named_tool_is_called(random_session: Session, choice: Any) -> None:
    options: dict[str, Any] = {"tool_choice": choice, "parallel_tool_calls": False}
    for seed in range(3):
        reply = ask(random_session, "Go on.", tools=[look, wait], seed=seed, **options)
        assert [call.name for call in reply.tool_calls] == ["wait"]


def test_no_call_with_none(random_session: Session) -> None:
    call = random_session.tokenize("<|tool_call>")[0]
    options: dict[str, Any] = {"tools": [look], "logit_bias": {call: 60.0}, "max_tokens": 8}
    assert random_session.ask("Go on.", **options, strict=True, seed=1).usage.completion_tokens
    drawn = random_session.ask("Go on.", **options, tool_choice="none", seed=1)
    assert not drawn.tool_calls and "<|tool_call>" not in drawn.text and not drawn.warnings
    either = ask(random_session, "Go on.", tools=[look], tool_choice="none", schema=["a", "b"])
    assert either.parsed in ("a", "b")


def test_strict_calls_are_right_and_text_before_them_is_free(random_session: Session) -> None:
    opened, closed = (random_session.tokenize(m)[0] for m in ("<|tool_call>", "<tool_call|>"))
    options: dict[str, Any] = {"strict": True, "logit_bias": {opened: 22.0, closed: 5}, "max_tokens": 60}
    called = []
    for seed in range(6):
        called += random_session.ask("Go on.", tools=[wait], seed=seed, **options).tool_calls
    assert called
    assert all(call.name == "wait" and call.arguments["seconds"] in (1, 2, 3) for call in called)


def test_one_call_at_a_time_ends_the_reply(random_session: Session) -> None:
    opened = random_session.tokenize("<|tool_call>")[0]
    options: dict[str, Any] = {"tools": [wait], "logit_bias": {opened: 60.0}, "strict": True}
    one = random_session.ask("Go on.", parallel_tool_calls=False, **options)
    assert len(one.tool_calls) == 1 and one.finish_reason == "tool_calls" and not one.warnings


def test_a_call_or_the_value(random_session: Session) -> None:
    """With tools and a schema the model may call; what it says otherwise follows the schema."""
    opened = random_session.tokenize("<|tool_call>")[0]
    options: dict[str, Any] = {"tools": [wait], "schema": ["yes", "no"], "parallel_tool_calls": False}
    called = ask(random_session, "Go on.", logit_bias={opened: 90.0}, **options)
    assert called.tool_calls[0].name == "wait" and called.parsed is None and not called.text
    said = ask(random_session, "Go on.", logit_bias={opened: -90.0}, **options)
    assert said.parsed in ("yes", "no") and not said.tool_calls


def test_a_run_with_a_required_call_ends(random_session: Session) -> None:
    chat = random_session.chat(tools=[wait])
    opened = random_session.tokenize("<|tool_call>")[0]
    reply = chat.run(
        "Go on.",
        tool_choice="wait",
        schema=["yes", "no"],
        parallel_tool_calls=False,
        logit_bias={opened: -90.0},
        max_tokens=100,
    )
    assert reply.parsed in ("yes", "no")
    assert [message["role"] for message in chat.messages] == ["user", "assistant", "tool", "assistant"]


@pytest.mark.parametrize("choice", ["sometimes", "missing_tool", 3, {"type": "function"}])
def test_a_choice_that_is_none_is_refused(random_session: Session, choice: Any) -> None:
    with pytest.raises(OptionError, match=r"tool_choice is .*look"):
        random_session.stream("Go on.", tools=[look], tool_choice=choice)
    with pytest.raises(OptionError, match="no tools"):
        random_session.stream("Go on.", tool_choice="required")


def test_a_bare_dict_is_a_tool_too(random_session: Session) -> None:
    bare = {"name": "look", "parameters": {"type": "object", "properties": {"at": {"enum": ["a"]}}}}
    reply = ask(random_session, "Go on.", tools=[bare], tool_choice="look", parallel_tool_calls=False)
    assert reply.tool_calls[0].name == "look"


def declared(name: str, *, strict: bool | None = None, **schema: Any) -> dict[str, Any]:
    function = {"name": name, "parameters": {"type": "object", "properties": {"x": schema}}}
    return {"type": "function", "function": {**function, **({} if strict is None else {"strict": strict})}}


NO_GRAMMAR = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}


def test_strict_counts_for_the_function_that_says_it() -> None:
    tools = [
        declared("a", strict=True, type="integer"),
        declared("b", **NO_GRAMMAR),
        declared("c", type="boolean"),
    ]
    rules = reply_rules(None, tools, ToolOptions())
    assert rules is not None and rules.calls is not None and not rules.must_call
    grammar = rules.calls.grammar
    judge = Judge(grammar)
    for call, allowed in {
        "a{x:1}": True,
        "a{x:true}": False,
        "b{x:1}": True,  # cannot be expressed, and nobody asked for it
        "c{x:true}": True,
        "c{x:1}": False,
    }.items():
        assert judge.accepts(f"<|tool_call>call:{call}<tool_call|>") is allowed
    with pytest.raises(SchemaError):
        reply_rules(None, [*tools[:1], declared("b", strict=True, **NO_GRAMMAR)], ToolOptions())
    assert reply_rules(None, [declared("b", strict=False, **NO_GRAMMAR)], ToolOptions()) is None


def test_only_tools_that_the_choice_allows_are_called() -> None:
    tools = [declared("a", type="integer"), declared("b", **NO_GRAMMAR), declared("c", type="boolean")]
    choice = {"mode": "AUTO", "allowedFunctionNames": ["a", "c"]}
    rules = reply_rules(None, tools, ToolOptions(tool_choice=choice))
    assert rules is not None and rules.calls is not None and not rules.must_call
    judge = Judge(rules.calls.grammar)
    assert [judge.accepts(f"<|tool_call>call:{c}<tool_call|>") for c in ("a{}", "b{}", "c{}")] == [
        True,
        False,
        True,
    ]
    once = reply_rules(
        None, tools, ToolOptions(tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    )
    assert once is not None and not once.parallel and once.calls is None
