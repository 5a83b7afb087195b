"""Grammar files, GBNF text and tool grammars, judged by llama.cpp's own engine and by one of ours."""

from __future__ import annotations

import itertools
import random
import re

import jsonschema
import pytest
from gbnf_tools import Judge, Writer
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_judge import LlamaJudge, LlamaVocab

from gemma4_gguf import grammars
from gemma4_gguf.errors import GrammarError, SchemaError
from gemma4_gguf.grammars.automata import build, to_node
from gemma4_gguf.grammars.gbnf_reader import parse_gbnf
from gemma4_gguf.grammars.gbnf_writer import to_gbnf
from gemma4_gguf.grammars.grammar import Chars, Grammar, Ref, Repeat, Text, char_set, complement, either, seq
from gemma4_gguf.grammars.lengths import CannotFit, length_range, limit_length
from gemma4_gguf.grammars.regex import parse_pattern
from gemma4_gguf.grammars.shipped import NAMES
from gemma4_gguf.grammars.sources import pattern_grammar
from gemma4_gguf.reply.parser import parse_reply


@pytest.fixture(scope="module")
def vocab(converted):
    vocab = LlamaVocab(converted("e2b")["model"])
    yield vocab
    vocab.close()


@pytest.fixture
def llama(vocab):
    """llama(grammar) → judge; freed after the test."""
    made = []

    def judge(grammar):
        made.append(LlamaJudge(vocab, grammar))
        return made[-1]

    yield judge
    for one in made:
        one.close()


# File → texts it accepts, texts it refuses.
FILES = {
    "json": (
        ["{}", "[ ]", '"a\\u00e9\\ud83d\\ude00\\n"', "-0.5e+10", "null", '{"a": [1, {"b": false}], "c": ""}'],
        ["", "{", "[1,]", '{"a" 1}', "'a'", "01", '"\t"', '"\\ud800"', "nul", "[1]]", "[1" + " " * 50 + "]"],
    ),
    "json_array": (["[]", '[1, "a", []]', "[\n  1,\n  2\n]"], ["{}", "1", "[1"]),
    "boxes": (
        ["[]", '[{"box_2d": [0, 1, 999, 1000], "label": "mug"}]', '[{"box_2d":[1,2,3,4],"label":"a"}]'],
        [
            '[{"box_2d": [0, 1, 999, 1001], "label": "m"}]',
            '[{"box_2d": [01, 1, 2, 3], "label": "m"}]',
            '[{"box_2d": [1, 2, 3], "label": "m"}]',
            '[{"box_2d": [1, 2, 3, 4], "label": ""}]',
            "{}",
        ],
    ),
    "points": (
        ["[]", '[{"point": [250, 18], "label": "red mug"}]'],
        ['[{"point": [250], "label": "m"}]', '[{"point": [250, 1.5], "label": "m"}]'],
    ),
    "tool_call": (
        [
            "<|tool_call>call:now{}<tool_call|>",
            '<|tool_call>call:f{a:<|"|>x, }<|"|>,b:[1,{c:null}]}<tool_call|>',
            '<|tool_call>call:f{a:<|"|><<|"<|"|>}<tool_call|><|tool_call>call:g{@k.x:-1.5e3}<tool_call|>',
        ],
        [
            "call:now{}",
            '<|tool_call>call:f{a:"x"}<tool_call|>',
            "<|tool_call>call:f{a:1}",
            '<|tool_call>call:f{a:<|"|>x<|"|>y<|"|>}<tool_call|>',
            "<|tool_call>call:f{a=1}<tool_call|>",
        ],
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_shipped_files(name, llama):
    text = grammars.load(name)
    good, bad = FILES[name]
    for judge in (Judge(text), llama(text), llama(to_gbnf(parse_gbnf(text)))):
        assert [s for s in good if not judge.accepts(s)] == []
        assert [s for s in bad if judge.accepts(s)] == []


def test_every_file_is_named():
    assert set(FILES) == set(NAMES)
    with pytest.raises(GrammarError, match="known: json, "):
        grammars.load("xml")


GRAMMARS = [
    'root ::= "a" | "b" x # comment\nx ::= [^a-c\\x2D\\]]{2,3} (\n  "d" |\n  "e"\n)*',
    'root ::= ("x"? [é-ü\\n] .)+\n',
    'root ::= a{2,} b{0,3} c{3}\na ::= "1"\nb ::= "2" "3"\nc ::= "\\"\\\\" | ""',
]


@pytest.mark.parametrize("text", GRAMMARS)
def test_text_round_trip(text, llama):
    again = to_gbnf(parse_gbnf(text))
    assert to_gbnf(parse_gbnf(again)) == again
    mine, theirs, first = Judge(again), llama(again), llama(text)
    writer, rnd = Writer(text, seed=3), random.Random(4)
    for _ in range(30):
        sample = writer.text()
        assert mine.accepts(sample) and theirs.accepts(sample) and first.accepts(sample)
        at = rnd.randint(0, len(sample))
        broken = sample[:at] + "?" + sample[at + 1 :]
        assert mine.accepts(broken) == theirs.accepts(broken) == first.accepts(broken)


MALFORMED = {
    "": "a rule called root",
    'x ::= "a"': "found x",
    "root ::= a": "not defined",
    'root ::= root "a"': "begin with itself",
    'root ::= a\na ::= "x"? b\nb ::= a': "begin with itself",
    'root = "a"': "line 1: expected ::=",
    'root ::= "a': "unexpected end",
    'root ::= ("a"': r"expected \)",
    'root ::= "a"{2,1}': "out of order",
    'root ::= "a"{x}': "expected a count",
    'root ::= "\\q"': "unknown escape",
    "root ::= [b-a]": "out of order",
    "root ::= <think>": "token references",
    'root ::= "a" )': "end of the line",
}


@pytest.mark.parametrize(("text", "message"), MALFORMED.items())
def test_malformed_grammars(text, message):
    with pytest.raises(GrammarError, match=message):
        parse_gbnf(text)


@pytest.mark.parametrize(
    ("least", "most"), [(0, 7), (3, 3), (999, 1003), (0, 2500), (2100, 4321), (1200, None)]
)
def test_long_repetitions_are_counted_right(least, most, llama):
    grammar = Grammar()
    grammar.rules["root"] = seq(Text("<"), grammar.repeat(Ref("x"), least, most), Text(">"))
    grammar.rules["x"] = either(Text("a"), Text("b"))
    judge = llama(to_gbnf(grammar))
    limit = least + 2000 if most is None else most
    for n in {max(least - 1, 0), least, (least + limit) // 2, limit - 1, limit, limit + 1}:
        assert judge.accepts(f"<{'ab' * (n // 2) + 'a' * (n % 2)}>") == (
            least <= n and (most is None or n <= most)
        )


sets = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=5).map(
    lambda spans: char_set((a, a + n) for a, n in spans)
)


@given(sets)
def test_character_sets(chars):
    members = {code for low, high in chars.ranges for code in range(low, high + 1)}
    other = complement(chars)
    assert all(any(a <= c <= b for a, b in other.ranges) != (c in members) for c in range(80))
    assert complement(other) == chars


PATTERNS = [
    r"^[a-c]+(-[a-c]+)*$",
    "ab|^b*$",
    r"^(?!a)[a-c]{0,3}$",
    r"^(?=.*b)a?[bc-]+$",
    "^(a|b?)+-$",
    r"^\w?\s\d$",
]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(("least", "most"), [(0, None), (2, 4)])
def test_patterns_mean_what_python_says(pattern, least, most):
    parsed = parse_pattern(pattern)
    automaton = build([parsed.node, *parsed.within], parsed.outside, least, most)
    grammar = Grammar({"root": Text("")})
    grammar.rules["root"] = to_node(automaton, grammar, "s")
    judge = Judge(grammar)
    for n in range(6):
        for letters in itertools.product("ab-1" if n > 4 else "abc- 1", repeat=min(n, 4)):
            text = "".join(letters)
            expected = bool(re.search(pattern, text)) and least <= len(text) <= (most or 99)
            assert judge.accepts(text) == expected, text


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 30))
def test_shortened_nodes_stay_within(most):
    node = seq(Text("ab"), Repeat(either(Text("c"), Text("dd")), 1, None), Repeat(Chars(((97, 99),)), 0, 20))
    if most < 3:
        with pytest.raises(CannotFit):
            limit_length(node, most)
        return
    short = limit_length(node, most)
    assert length_range(short)[1] <= most
    judge, writer = Judge(Grammar({"root": node})), Writer(Grammar({"root": short}), seed=most)
    assert all(judge.accepts(text) and len(text) <= most for text in (writer.text() for _ in range(10)))


def tool(name, required=(), **properties):
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [
    tool(
        "get_weather",
        ["city"],
        unit={"enum": ["c", "f"]},
        city={"type": "string", "minLength": 1, "maxLength": 9},
        days={"type": "integer", "minimum": 1, "maximum": 14},
    ),
    tool(
        "note",
        ["text", "tags"],
        text={"type": "string"},
        tags={"type": "array", "items": {"type": "string", "pattern": "^[a-z<]+$"}},
        when={"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
        extra={"type": "object", "additionalProperties": {"type": "number"}},
    ),
    {"name": "now"},
]


def call(body):
    return f"<|tool_call>call:{body}<tool_call|>"


def test_tool_grammar_makes_arguments_right(llama):
    text = grammars.from_tools(TOOLS)
    good = [
        call('get_weather{city:<|"|>Oslo<|"|>}'),
        call('get_weather{city:<|"|>Oslo<|"|>,days:14,unit:<|"|>f<|"|>}') + call("now{}"),
        call('note{tags:[],text:<|"|>a {b}, "c"<|"|>}'),
        call('note{extra:{x.y:1.5,z:-2},tags:[<|"|>a<b<|"|>],text:<|"|><|"|>,when:null}'),
    ]
    bad = [
        call("get_weather{}"),  # required
        call('get_weather{city:<|"|>Oslo<|"|>,days:15}'),  # range
        call('get_weather{days:1,city:<|"|>Oslo<|"|>}'),  # the order the model learned
        call('get_weather{city:<|"|>Constantinople<|"|>}'),  # length
        call('get_weather{place:<|"|>Oslo<|"|>}'),  # name of an argument
        call("weather{}"),
        call("now{x:1}"),
        call('note{tags:[<|"|>A<|"|>],text:<|"|><|"|>}'),
        "",
    ]
    for judge in (Judge(text), llama(text)):
        assert [s for s in good if not judge.accepts(s)] == []
        assert [s for s in bad if judge.accepts(s)] == []
    assert not Judge(grammars.from_tools(TOOLS, parallel=False)).accepts(good[1])


def test_what_the_tool_grammar_allows_is_parsed_back():
    writer = Writer(grammars.from_tools(TOOLS, parallel=False), seed=1)
    schemas = {t.get("function", t)["name"]: t.get("function", t).get("parameters", {}) for t in TOOLS}
    for _ in range(200):
        text = writer.text()
        reply = parse_reply(text, TOOLS)
        assert len(reply.tool_calls) == 1 and not reply.text and not reply.warnings, text
        found = reply.tool_calls[0]
        jsonschema.validate(found.arguments, schemas[found.name])


def test_tools_that_cannot_be_expressed():
    with pytest.raises(SchemaError) as caught:
        grammars.from_tools([TOOLS[0], tool("g", x={"items": {"type": "string"}, "uniqueItems": True})])
    assert caught.value.pointer == "/1/function/parameters/properties/x/uniqueItems"
    assert str(caught.value).count("(at ") == 1
    with pytest.raises(SchemaError, match="no tools"):
        grammars.from_tools([])
    with pytest.raises(SchemaError, match="function"):
        grammars.from_tools([{"type": "function"}])


WRONG_HEX = ("+1", "-1", " 1", "1_", "_1", "1 ", "0x", "g0", "１２", "")


@pytest.mark.parametrize("digits", WRONG_HEX)
def test_an_escape_takes_hexadecimal_digits_alone(digits: str) -> None:
    with pytest.raises(GrammarError, match="escape"):
        parse_gbnf(f'root ::= "\\x{digits}"')
    with pytest.raises(SchemaError, match="escape"):
        pattern_grammar(f"\\x{digits}")


def test_escapes_name_code_points() -> None:
    assert parse_gbnf(r'root ::= "\x41\u00e9\U0001F600"').rules["root"] == Text("Aé😀")
    with pytest.raises(GrammarError, match="escape"):
        parse_gbnf(r'root ::= "\U00110000"')
