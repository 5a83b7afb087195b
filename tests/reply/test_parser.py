"""Reply parsing: recorded cases, every known malformed pattern, streams, and marker soup."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma4_gguf.reply.parser import ReplyParser, parse_reply
from gemma4_gguf.special_tokens import MARKER_TEXT, Markers
from gemma4_gguf.types import Usage


def lines(name):
    text = (Path(__file__).parents[1] / "data" / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


CASES = lines("reply_cases.jsonl")
PATTERNS = lines("reply_patterns.jsonl")  # every malformed output seen in the wild, and what it must become
IDS = {name: 46 + number for number, name in enumerate(MARKER_TEXT)}
MARKERS = Markers(**IDS, silent=frozenset({0, 1, 2}))
Q = '<|"|>'


def tool(name="f", **properties):
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TEXT, WHOLE = {"type": "string"}, {"type": "integer"}


def call(body, close=True):
    return f"<|tool_call>call:{body}" + "<tool_call|>" * close


def read(raw, tools=None, **options):
    reply = parse_reply(raw, tools, **options)
    return reply.text, reply.thinking, [(c.name, c.arguments) for c in reply.tool_calls]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_recorded_cases(case):
    tools = None
    if case["parameters"]:
        tools = [{"type": "function", "function": {"name": "f", "parameters": case["parameters"]}}]
    parser = ReplyParser(None, tools, case["starts_in_thought"])
    parser.feed(None, case["raw"])
    cut = parser.finish(case["finish_reason"])
    for reply in (cut, parse_reply(case["raw"], tools, case["starts_in_thought"])):
        assert reply.text == case["expect"]["content"]
        assert reply.thinking == case["expect"]["thinking"]
        calls = [{"name": c.name, "arguments": c.arguments} for c in reply.tool_calls]
        assert calls == case["expect"]["tool_calls"]


@pytest.mark.parametrize("case", PATTERNS, ids=[case["name"] for case in PATTERNS])
def test_malformed_pattern(case):
    raw, tools, options = case["raw"], case["tools"], {"starts_in_thought": case["starts_in_thought"]}
    expected = (case["text"], case["thinking"], [tuple(call) for call in case["calls"]])
    assert read(raw, tools, **options) == expected
    assert stream(tokens_of(raw), tools=tools, **options)[1:] == expected


@pytest.mark.parametrize("split", [1, 2, 3, 5])
def test_delimiter_split_across_chunks(split):
    raw = "<|channel>thought\nhm\n<channel|>" + call(f"f{{a:{Q}x, {{y}}{Q}}}")
    parser = ReplyParser(None)
    chunks = [c for at in range(0, len(raw), split) for c in parser.feed(None, raw[at : at + split])]
    reply = parser.finish("stop")
    assert reply.tool_calls[0].arguments == {"a": "x, {y}"}
    assert "".join(c.text for c in chunks if c.kind == "thinking") == reply.thinking == "hm"


def tokens_of(raw):
    """The tokens a model would have drawn: markers by id, the rest a character each."""
    out, by_text = [], {text: name for name, text in MARKER_TEXT.items()}
    while raw:
        for text, name in by_text.items():
            if raw.startswith(text):
                out.append((IDS[name], text))
                raw = raw[len(text) :]
                break
        else:
            out.append((1000 + ord(raw[0]), raw[0]))
            raw = raw[1:]
    return out


def stream(tokens, markers=MARKERS, finish_reason="stop", **options):
    parser = ReplyParser(markers, **options)
    chunks = [chunk for token_id, text in tokens for chunk in parser.feed(token_id, text)]
    chunks += parser.flush(finish_reason)
    reply = parser.finish(finish_reason)
    assert "".join(c.text for c in chunks if c.kind == "text") == reply.text
    assert "".join(c.text for c in chunks if c.kind == "thinking") == (reply.thinking or "")
    assert [c.tool_call for c in chunks if c.kind == "tool_call"] == list(reply.tool_calls)
    return reply, reply.text, reply.thinking, [(c.name, c.arguments) for c in reply.tool_calls]


def test_markers_spelled_in_ordinary_tokens_are_text():
    raw = "Write <|tool_call>call:f{}<tool_call|> or <|channel>thought\n<channel|> like this.<turn|>"
    reply, text, thinking, calls = stream([(7, raw[:20]), (8, raw[20:])])
    assert (text, thinking, calls, reply.warnings) == (raw, None, [], ())


@pytest.mark.parametrize("raw", ["thought \r x", "thought" + " " * 20 + "x", "thoughts\nx", "thought\r\r\nx"])
def test_half_a_header_is_no_header_wherever_chunks_end(raw):
    for text, starts in ((raw, True), (raw, False), ("<|channel>" + raw + "<channel|>", False)):
        whole = stream([(None, text)], None, starts_in_thought=starts)
        assert stream(tokens_of(text), starts_in_thought=starts) == whole
        assert raw in (whole[1], whole[2])


def test_nothing_beside_a_call_is_dropped_in_silence():
    raw = '<|tool_call>{"name":"f","arguments":{"a":1},"note":"why"}<tool_call|>'
    assert "why" in parse_reply(raw).warnings[1]
    blocks = call("f:\nlook here\nBEGIN_ARG:\nx\nEND_ARG\n")
    assert read(blocks, [tool(a=TEXT)]) == (blocks, None, [])


def test_text_comes_out_at_once():
    parser = ReplyParser(MARKERS)
    assert [c.text for c in parser.feed(5, "Hello <|tool")] == ["Hello <|tool"]
    by_text = ReplyParser(None)
    assert [c.text for c in by_text.feed(None, "Hello <|tool")] == ["Hello "]
    assert [c.text for c in by_text.feed(None, "box")] == ["<|toolbox"]
    assert [c.text for c in by_text.feed(None, " a < b")] == [" a < b"]


def test_silent_tokens_and_the_end_of_the_turn_are_not_text():
    tokens = [(2, "<bos>"), (9, "Bye."), (IDS["turn_close"], "<turn|>"), (1, "<eos>")]
    assert stream(tokens)[1] == "Bye."


def test_text_after_the_turn_is_reported():
    reply = parse_reply("Bye.<turn|>\n<|turn>user\nAgain?")
    assert reply.text == "Bye."
    assert "Again?" in reply.warnings[0]


def test_a_result_the_model_made_up_is_no_text():
    raw = call("f{}") + "<|tool_response>response:f{value:3}<tool_response|>It is 3."
    reply = parse_reply(raw)
    assert (reply.text, len(reply.tool_calls)) == ("It is 3.", 1)
    assert "response:f{value:3}" in reply.warnings[0]


def test_marker_text_inside_an_argument_stays_there():
    raw = call(f"f{{t:{Q}use {call('x{}')} now{Q}}}") + " ok"
    assert read(raw) == (" ok", None, [("f", {"t": "use <|tool_call>call:x{}<tool_call|> now"})])


def test_call_ids_are_unique_and_count_on():
    raw = call("f{a:1}") + call("f{a:2}")
    assert [c.id for c in parse_reply(raw).tool_calls] == ["call_0", "call_1"]
    parser = ReplyParser(None, first_call=5)
    parser.feed(None, raw)
    assert [c.id for c in parser.finish("stop").tool_calls] == ["call_5", "call_6"]


def test_one_call_only_when_parallel_calls_are_off():
    parser = ReplyParser(None, parallel_tool_calls=False)
    parser.feed(None, call("f{a:1}") + call("g{}"))
    reply = parser.finish("stop")
    assert [c.name for c in reply.tool_calls] == ["f"]
    assert "g({})" in reply.warnings[0]


def test_cut_replies():
    complete = call(f"f{{a:{Q}x{Q}}}", close=False)
    parser = ReplyParser(None)
    parser.feed(None, complete)
    reply = parser.finish("length", Usage(3, 0, 9))
    assert (reply.tool_calls[0].arguments, reply.finish_reason, reply.usage.total_tokens) == (
        {"a": "x"},
        "length",
        12,
    )
    half = ReplyParser(None)
    half.feed(None, complete[:-1])  # the closing brace is missing: more arguments may have been to come
    reply = half.finish("length")
    assert (reply.text, reply.tool_calls) == (complete[:-1], ())


def test_finish_reason_names_the_calls():
    assert parse_reply(call("f{}")).finish_reason == "tool_calls"
    assert parse_reply("hi").finish_reason == "stop"


SCHEMA_TYPES = [
    (f"n:{Q}5{Q}", {"n": WHOLE}, {"n": 5}),
    ("n:5.0", {"n": WHOLE}, {"n": 5}),
    ("zip:01234", {"zip": TEXT}, {"zip": "01234"}),
    (f"n:{Q}007{Q}", {"n": WHOLE}, {"n": 7}),
    ("zip:12345", {"zip": TEXT}, {"zip": "12345"}),
    (f"on:{Q}true{Q}", {"on": {"type": "boolean"}}, {"on": True}),
    (f"l:{Q}[1, 2]{Q}", {"l": {"type": "array", "items": WHOLE}}, {"l": [1, 2]}),
    (f"n:{Q}1e3{Q}", {"n": WHOLE}, {"n": 1000}),
    (f"on:{Q}TRUE{Q}", {"on": {"type": "boolean"}}, {"on": True}),
    ("x:1e999", {"x": {"type": "number"}}, {"x": "1e999"}),  # no finite number
    ("v:null", {"v": {"anyOf": [TEXT, {"type": "null"}]}}, {"v": None}),
    (f"v:{Q}5{Q}", {"v": {"anyOf": [TEXT, WHOLE]}}, {"v": "5"}),
    (f"v:{Q}x{Q}", {"v": WHOLE}, {"v": "x"}),  # no reading as a number: left for the caller to refuse
]


@pytest.mark.parametrize(("body", "properties", "expected"), SCHEMA_TYPES)
def test_values_take_the_declared_type(body, properties, expected):
    reply = parse_reply(call(f"f{{{body}}}"), [tool(**properties)])
    assert reply.tool_calls[0].arguments == expected


def test_references_in_a_tool_schema_are_followed():
    parameters = {
        "type": "object",
        "properties": {"items": {"type": "array", "items": {"$ref": "#/$defs/Item"}}},
        "$defs": {"Item": {"type": "object", "properties": {"count": WHOLE, "note": TEXT}}},
    }
    raw = call(f"f{{items:[{{note:{Q}a{Q} b{Q},count:{Q}2{Q}}}]}}")
    reply = parse_reply(raw, [{"name": "f", "parameters": parameters}])
    assert reply.tool_calls[0].arguments == {"items": [{"note": 'a" b', "count": 2}]}


def test_unreadable_call_is_kept_as_text_with_a_warning():
    raw = "Look: " + call("f]]]") + " done"
    reply = parse_reply(raw)
    assert (reply.text, reply.tool_calls) == (raw, ())
    assert reply.warnings == ("A tool call could not be read; it is kept as text.",)


def test_long_arguments_are_read_in_one_piece():
    code = "def f(x):\n    return {'a': [x, 1]}, \"b\"\n" * 5000
    assert read(call(f"write{{text:{Q}{code}{Q}}}"))[2] == [("write", {"text": code})]
    raw = call("write{text:" + code + "}")
    assert read(raw, [tool("write", text=TEXT)])[2] == [("write", {"text": code})]


WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "call:f{",
    "call:f(",
    "call:",
    "thought\n",
    "thought",
    "response:f{",
]
SOUP = [
    *MARKER_TEXT.values(),
    "<|tool_call>:f{",
    "<tool_call:f{",
    "```\n",
    "`",
    "<|tool_call>f",
    "\\",
    ">",
    *WORDS,
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    ":",
    ",",
    "=",
    '"',
    "'",
    "1",
    " ",
    "\n",
    "<|",
]


@st.composite
def chunked(draw):
    text = "".join(draw(st.lists(st.sampled_from(SOUP), max_size=40)))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return text, [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


SILENT = ["<eos>", "<bos>", "<pad>", "<|think|>", "<|image|>", "<tool|>"]


@pytest.mark.parametrize("marker", SILENT)
@pytest.mark.parametrize("split", [1, 3, 1000])
def test_control_markers_are_not_text(marker, split):
    """They mean nothing in a reply, wherever they stand; in a text argument they are characters."""
    inside = f"the {marker} marker"
    raw = f"{marker}<|channel>thought\nhm{marker}<channel|>Bye{marker}, all.{marker}" + call(
        f"f{{a:{Q}{inside}{Q}}}{marker}", close=False
    )
    parser = ReplyParser(None)
    chunks = [c for at in range(0, len(raw), split) for c in parser.feed(None, raw[at : at + split])]
    reply = parser.finish("stop")
    assert (reply.text, reply.thinking, reply.warnings) == ("Bye, all.", "hm", ())
    assert reply.tool_calls[0].arguments == {"a": inside}
    assert "".join(c.text for c in chunks if c.kind == "text") == reply.text


def test_calls_without_marker_can_be_left_alone():
    raw = "call:f{a:1}"
    parser = ReplyParser(None, [tool(a=WHOLE)], bare_calls=False)
    parser.feed(None, raw)
    assert parser.finish("stop").text == raw
    assert read(raw, [tool(a=WHOLE)])[2] == [("f", {"a": 1})]


def test_a_cut_call_is_not_run():
    for raw in (call("get", close=False), "call:get{a:1", "call:ge"):
        parser = ReplyParser(None, [tool("get", a=WHOLE), tool("get_all")])
        parser.feed(None, raw)
        reply = parser.finish("length")
        assert (reply.text, reply.tool_calls) == (raw, ())


def test_values_take_the_type_of_their_alternative():
    parameters = {
        "type": "object",
        "properties": {
            "place": {"anyOf": [{"$ref": "#/$defs/Place"}, {"type": "null"}]},
            "way": {"enum": [1, 2]},
        },
        "$defs": {"Place": {"type": "object", "properties": {"x": {"type": "number"}}}},
    }
    raw = call(f"f{{place:{{x:{Q}108.{Q}}},way:{Q}2{Q}}}")
    reply = parse_reply(raw, [{"name": "f", "parameters": parameters}])
    assert reply.tool_calls[0].arguments == {"place": {"x": 108.0}, "way": 2}


def test_a_schema_that_refers_to_itself_ends():
    parameters = {"type": "object", "properties": {"a": {"anyOf": [{"$ref": "#/properties/a"}, WHOLE]}}}
    assert read(call("f{a:.5}"), [{"name": "f", "parameters": parameters}])[2] == [("f", {"a": ".5"})]


MANY = 20_000
FLOODS = {
    "nested objects": call("f" + "{a:" * 100_000),
    "nested arrays": call("f{a:" + "[" * 100_000 + "]" * 100_000 + "}"),
    "nested JSON": '<|tool_call>{"name":"f","arguments":{"a":' + "[" * 100_000 + "]" * 100_000 + "}}",
    "nested in a text": call(f"f{{a:{Q}" + "[" * 100_000 + "]" * 100_000 + f"{Q}}}"),
    "nested without marker": "call:f" + "{a:" * 100_000,
    "spaces after thought": "thought" + " " * MANY,
    "spaces in a thought": "<|channel>thought\nx" + " " * MANY + "y",
    "closing markers in a text": f"<|tool_call>call:f{{a:{Q}" + "<tool_call|>" * MANY,
    "opening markers in a text": f"<|tool_call>call:f{{a:{Q}" + "<|tool_call>" * MANY,
    "closing brackets": call("f{a:x" + "}" * MANY + "x"),
    "plain quotes": call("f{" + "b:'x," * MANY + "}"),
    "escaped quotes": call('f{a:"' + '\\"' * MANY + "}"),
    "keys": call("f{" + "b:1," * MANY + "}"),
    "spaces in an empty thought": call("f{a:<|channel>" + " " * MANY + "x<channel|>}"),
    "calls without marker that never close": "call:f{a:x\n" * MANY,
    "openers": "call:" * MANY,
    "warnings": "".join(f"<|tool_response>response:f{{{n}}}<tool_response|>" for n in range(MANY)),
}


@pytest.mark.parametrize("name", FLOODS)
def test_no_reply_takes_long(name):
    """A reader that were quadratic, or that recursed, would not come back from these."""
    reply = parse_reply(FLOODS[name], [tool(a=TEXT)])
    assert reply.text or reply.thinking or reply.tool_calls or reply.warnings


@settings(max_examples=400, deadline=None)
@given(chunked(), st.booleans(), st.sampled_from(["stop", "length"]), st.booleans())
def test_marker_soup(soup, starts_in_thought, finish_reason, with_tools):
    """Never an exception; chunk boundaries change nothing; ids and text agree; no word is lost."""
    text, parts = soup
    options = {
        "tools": [tool(alpha=TEXT, beta=WHOLE), tool("alpha")] if with_tools else None,
        "starts_in_thought": starts_in_thought,
    }
    whole = stream([(None, text)], None, finish_reason, **options)
    assert stream([(None, part) for part in parts], None, finish_reason, **options) == whole
    assert stream(tokens_of(text), MARKERS, finish_reason, **options) == whole
    seen = json.dumps([whole[1], whole[2], whole[3], whole[0].warnings])
    for word in WORDS[:4]:
        assert word not in text or word in seen


@st.composite
def argument_values(draw):
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda s: "<" not in s)
    leaves = text | st.integers(-(10**12), 10**12) | st.booleans() | st.none()
    leaves |= st.floats(-1e6, 1e6, allow_nan=False)
    keys = st.from_regex(r"[a-z_][a-z0-9_.@]{0,8}", fullmatch=True)
    values = st.recursive(
        leaves, lambda v: st.lists(v, max_size=4) | st.dictionaries(keys, v, max_size=4), max_leaves=8
    )
    return draw(st.dictionaries(keys, values, max_size=4))


def native(value):
    """A value as the templates print it."""
    if isinstance(value, str):
        return Q + value + Q
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{native(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(native, value)) + "]"
    return json.dumps(value)


@settings(max_examples=200, deadline=None)
@given(argument_values())
def test_native_calls_round_trip(arguments):
    reply = parse_reply(call("f" + native(arguments)))
    assert [c.arguments for c in reply.tool_calls] == [arguments]
    assert reply.warnings == ()


def test_every_private_character_in_an_argument():
    text = "".join(map(chr, range(0xE000, 0xF900)))
    reply = parse_reply(f'<|tool_call>call:f{{a:<|"|>{text}<|"|>}}<tool_call|>')
    assert reply.tool_calls[0].arguments == {"a": text}
