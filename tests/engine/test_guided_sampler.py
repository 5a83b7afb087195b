"""Constrained replies: what may be asked for, llguidance against GBNF, drawing from random weights."""

from __future__ import annotations

import codecs
import json
import random
import re
from typing import Annotated, Literal

import pytest
from gbnf_tools import Judge, Writer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, Field
from schema_strategies import schemas

from gemma4_gguf import Session
from gemma4_gguf.engine.guided_sampler import Guide, GuidedSampler, token_table
from gemma4_gguf.engine.sampler import Sampler
from gemma4_gguf.errors import GrammarError, IncompleteReplyError, InvalidReplyError, SchemaError
from gemma4_gguf.grammars.gbnf_reader import parse_gbnf
from gemma4_gguf.grammars.gbnf_writer import to_gbnf
from gemma4_gguf.grammars.sources import schema_grammar
from gemma4_gguf.options import SamplingOptions
from gemma4_gguf.reply.parser import ReplyParser
from gemma4_gguf.special_tokens import Markers
from gemma4_gguf.structured_output import as_constraint, tool_constraint
from gemma4_gguf.types import Pattern


class Pet(BaseModel):
    name: str = Field(min_length=1, max_length=8)
    legs: Literal[2, 4]
    parents: list[Pet] = Field(default=[], max_length=1)


PARAMETERS = {
    "type": "object",
    "properties": {
        "at": {"type": "string", "maxLength": 5},
        "n": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["at"],
}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": PARAMETERS}}]


@pytest.fixture(scope="module")
def session(converted):
    with Session(converted("e2b")["model"], projector=None, n_ctx=512) as session:
        yield session


class Desk:
    """A model, its table, and the marker ids."""

    def __init__(self, session):
        self.session, self.model = session, session.engine.model
        self.table = token_table(self.model)
        self.markers = Markers.from_vocab(self.model.token_id)
        self.bytes = {}
        for token in range(self.model.n_vocab):
            piece = self.model.piece(token)
            if len(piece) == 1 and not self.model.ends_reply(token):
                self.bytes.setdefault(piece[0], token)

    def guide(self, constraint, **options):
        return Guide(self.table, constraint.grammar, self.markers, **options)

    def draw(self, constraint, seed=1, limit=150, **options):
        """Returns: drawn tokens without the one that ends the reply, and whether the reply is whole."""
        guide, context, model = self.guide(constraint, **options), self.session.engine.context, self.model
        plain = Sampler(SamplingOptions(seed=seed), model.n_vocab, model.facts.banned_tokens)
        sampler = GuidedSampler(plain, guide, model.n_vocab)
        items = self.session.prompt([{"role": "user", "content": "x"}]).items
        drawn = []
        with self.session.engine.pool.lend(items) as state, context.lock:
            context.extend(state, items[context.fit(state, items) :])
            while len(drawn) < limit:
                token = sampler.draw(context.handle)
                if model.ends_reply(token):
                    break
                drawn.append(token)
                context.extend_one(state, token)
        sampler.close()
        return drawn, guide.complete

    def text(self, drawn):
        return self.model.detokenize(drawn)

    def accepts(self, grammar, text):
        matcher = self.table.matcher(grammar)
        ids = [self.bytes[byte] for byte in text.encode()]
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


@pytest.fixture(scope="module")
def desk(session):
    return Desk(session)


# What may be asked for

KINDS = [
    (["yes", "no", 3, None], "choices", "3", 3),
    (Pattern(r"\d{3}-[a-z]{2,5}"), "pattern", "123-ab", "123-ab"),
    (re.compile("a|(b*)*c"), "pattern", "bbc", "bbc"),
    ('root ::= "x" | "y"+', "grammar", "yy", "yy"),
    ({"type": "array", "items": {"type": "integer"}, "maxItems": 3}, "schema", "[1, 2]", [1, 2]),
    (Pet, "type", '{"name": "Rex", "legs": 4}', Pet(name="Rex", legs=4)),
    (dict[str, bool], "type", '{"a": true}', {"a": True}),
    (Literal["a", 1], "type", '"a"', "a"),
]
by_kind = pytest.mark.parametrize(
    ("schema", "kind", "text", "value"), KINDS, ids=[str(k[0])[:20] for k in KINDS]
)


@by_kind
def test_kinds(schema, kind, text, value):
    found = as_constraint(schema)
    assert found.kind == kind
    assert Judge(found.grammar).accepts(text)
    assert found.parse(text) == value
    assert as_constraint(found) is found


@pytest.mark.parametrize(
    "schema", [None, 3, True, b"x", [], ["a", "a"], [1, "1"], [[1]], re.compile(b"a"), "("]
)
def test_what_is_no_schema(schema):
    with pytest.raises(SchemaError):
        as_constraint(schema)


def test_cut_and_refused_values():
    with pytest.raises(IncompleteReplyError, match="max_tokens") as caught:
        as_constraint(Pet).parse('{"name": "Re')
    assert caught.value.text == '{"name": "Re'
    with pytest.raises(IncompleteReplyError):
        as_constraint(["yes", "no"]).parse("ye")
    with pytest.raises(IncompleteReplyError):
        as_constraint({"type": "array"}).parse("[1, ")

    def even(n: int) -> int:
        if n % 2:
            raise ValueError("odd")
        return n

    with pytest.raises(InvalidReplyError, match="odd"):
        as_constraint(Annotated[int, AfterValidator(even)]).parse("3")


# The engine follows the same language as GBNF


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(pair=schemas, seed=st.integers(0, 999))
def test_llguidance_and_gbnf_agree(desk, pair, seed):
    grammar = schema_grammar(pair[0])
    written = schema_grammar(pair[0], meets=False)
    judge, writer, rnd = Judge(to_gbnf(written)), Writer(written, seed), random.Random(seed)
    for _ in range(3):
        text = writer.text()
        assert desk.accepts(grammar, text)
        at = rnd.randint(0, len(text))
        broken = text[:at] + rnd.choice('",:{}[] 0a\\') + text[at + rnd.randint(0, 1) :]
        assert desk.accepts(grammar, broken) == judge.accepts(broken), broken


AMBIGUOUS = [
    'root ::= "a"* x\nx ::= "ab" x | "c"',
    'root ::= ("a" | "ab") y\ny ::= "b" y "c" | "d"',
    'root ::= sum\nsum ::= part ("+" part)*\npart ::= [0-9]+ ("." [0-9]+)? | "(" sum ")"',
    'root ::= ws "x" ws | "[" root "]"\nws ::= " "*',
]


@pytest.mark.parametrize("text", AMBIGUOUS)
def test_grammars_of_others_are_followed_exactly(desk, text):
    grammar, judge, rnd = parse_gbnf(text), Judge(text), random.Random(2)
    for seed in range(30):
        sample = Writer(text, seed, depth=8).text()
        assert desk.accepts(grammar, sample)
        at = rnd.randint(0, len(sample))
        broken = sample[:at] + rnd.choice("abcd()+.1 x") + sample[at + rnd.randint(0, 1) :]
        assert desk.accepts(grammar, broken) == judge.accepts(broken)


# Drawing


@by_kind
def test_whatever_is_drawn_fits(desk, schema, kind, text, value):
    found = as_constraint(schema)
    whole = 0
    for seed in range(3):
        drawn, complete = desk.draw(found, seed)
        if complete:
            whole += 1
            found.parse(desk.text(drawn))
            assert Judge(found.grammar).accepts(desk.text(drawn))
        else:
            assert len(drawn) == 150
    assert whole or kind == "type"  # random weights may write blanks to the limit


def test_same_seed_same_reply(desk):
    found = as_constraint({"type": "array", "items": {"type": "string"}})
    assert desk.draw(found, 7) == desk.draw(found, 7)


def test_tool_calls_are_drawn_in_tokens_that_the_parser_reads(desk):
    for seed in range(4):
        drawn, complete = desk.draw(tool_constraint(TOOLS, parallel=False), seed)
        assert complete and drawn[0] == desk.markers.call_open
        parser, characters = ReplyParser(desk.markers, TOOLS), codecs.getincrementaldecoder("utf-8")()
        for token in drawn:
            parser.feed(token, characters.decode(desk.model.piece(token)))
        reply = parser.finish("stop")
        assert [call.name for call in reply.tool_calls] == ["look"]
        assert len(reply.tool_calls[0].arguments["at"]) <= 5 and not reply.text


def test_a_thought_may_come_first(desk):
    markers, yes, no = desk.markers, desk.bytes[ord("y")], desk.bytes[ord("n")]
    guide = desk.guide(as_constraint(Pattern("y[a-z]*")), start="after_thought")
    mask = guide.mask()
    assert mask[markers.channel_open] and mask[yes] and not mask[no]
    guide.commit(markers.channel_open)
    mask = guide.mask()
    assert mask[no] and not mask[desk.table.ends].any() and not mask[markers.call_open]
    assert not guide.complete
    guide.commit(no)
    guide.commit(markers.channel_close)
    mask = guide.mask()
    assert mask[yes] and not mask[no] and not mask[markers.channel_open]
    guide.commit(yes)
    assert guide.complete and guide.mask()[desk.table.ends].any()


def test_a_thought_that_the_prompt_opened(desk):
    guide = desk.guide(as_constraint(Pattern("y[a-z]*")), start="after_thought", in_thought=True)
    assert guide.mask()[desk.bytes[ord("n")]]
    guide.commit(desk.markers.channel_close)
    assert not guide.mask()[desk.bytes[ord("n")]]


def test_text_before_a_call_is_free(desk):
    guide, markers = desk.guide(tool_constraint(TOOLS, parallel=False), start="at_call"), desk.markers
    for token in desk.model.tokenize("Wait."):
        assert guide.mask() is None
        guide.commit(token)
    for _ in range(2):
        guide.commit(markers.call_open)
        for token in desk.model.tokenize("call:look{at:"):
            assert not guide.mask()[markers.call_close]
            guide.commit(token)
        assert set(guide.mask().nonzero()[0]) == {markers.quote}
        assert not guide.complete
        for token in (markers.quote, markers.quote, *desk.model.tokenize("}"), markers.call_close):
            assert guide.mask()[token]
            guide.commit(token)
        assert guide.mask() is None and guide.complete


def test_banned_tokens_are_never_offered(desk):
    banned = desk.table.banned
    assert len(banned)
    guide = desk.guide(as_constraint(Pattern(".*")), start="after_thought")
    assert not guide.mask()[banned].any()
    guide.commit(desk.markers.channel_open)
    assert not guide.mask()[banned].any()


def test_wrong_tokens_and_impossible_grammars_are_errors(desk):
    guide = desk.guide(as_constraint(["yes"]))
    with pytest.raises(GrammarError, match=r"fit|gave up"):
        guide.commit(desk.bytes[ord("n")])
    with pytest.raises(GrammarError, match="cannot follow"):
        desk.table.matcher(parse_gbnf("root ::= [^\\x00-\\U0010FFFF]"))


def test_the_table_is_built_once_for_a_file_and_outlives_its_model(desk, tmp_path):
    path = tmp_path / "copy.gguf"
    path.write_bytes(desk.model.facts.path.read_bytes())
    tables = []
    for _ in range(2):
        with Session(path, projector=None, n_ctx=64) as other:
            tables.append(token_table(other.engine.model))
    assert tables[0] is tables[1] is not desk.table
    guide = Guide(tables[0], as_constraint(["yes"]).grammar, desk.markers)
    assert (guide.mask() == desk.guide(as_constraint(["yes"])).mask()).all()


def test_json_of_a_cut_reply(desk):
    found = as_constraint({"type": "array", "items": {"type": "string", "minLength": 500}, "minItems": 1})
    drawn, complete = desk.draw(found, limit=20)
    assert not complete
    with pytest.raises(IncompleteReplyError) as caught:
        found.parse(desk.text(drawn))
    with pytest.raises(json.JSONDecodeError):
        json.loads(caught.value.text)
