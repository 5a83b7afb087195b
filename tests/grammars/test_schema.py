"""JSON schema → GBNF: never wider, and no valid value shut out that stands in declared order."""

from __future__ import annotations

import base64
import datetime
import decimal
import enum
import gc
import ipaddress
import json
import math
import re
import uuid
from pathlib import Path
from typing import Annotated, Literal, Optional, Union

import jsonschema
import pydantic
import pytest
from gbnf_tools import Judge, Writer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import UUID4, AnyUrl, BaseModel, ConfigDict, Field, HttpUrl, TypeAdapter
from schema_strategies import schemas

from gemma4_gguf import grammars
from gemma4_gguf.errors import SchemaError

DATA = Path(__file__).parents[1] / "data" / "schema_cases.jsonl"
CASES = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]


def judge(schema):
    return Judge(grammars.from_schema(schema))


def accepts(schema, *values):
    found = judge(schema)
    return [found.accepts(json.dumps(value, ensure_ascii=False)) for value in values]


def valid(schema, value):
    return jsonschema.Draft202012Validator(schema).is_valid(value)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(schemas, st.data(), st.booleans(), st.sampled_from([None, 1, 4]))
def test_random_schemas(pair, data, ascii_only, indent):
    """Valid values are accepted however json writes them; whatever the grammar writes is valid."""
    schema, values = pair
    found = judge(schema)
    for _ in range(2):
        value = data.draw(values)
        assert valid(schema, value)
        assert found.accepts(json.dumps(value, ensure_ascii=ascii_only, indent=indent))
    writer = Writer(found.grammar, data.draw(st.integers(0, 99)))
    for _ in range(4):
        text = writer.text()
        assert valid(schema, json.loads(text)), text
        assert found.accepts(text)


bounds = (
    st.integers(-3000, 3000)
    | st.floats(-50, 50)
    | st.sampled_from([0, 0.0, 1e-9, -1e-9, 1e17, 1e300, 5e-324])
)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["integer", "number"]),
    st.dictionaries(
        st.sampled_from(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]), bounds, max_size=3
    ),
    st.data(),
)
def test_ranges_of_numbers(kind, limits, data):
    schema = {"type": kind, **limits}
    near = [bound + d for bound in limits.values() for d in (0, 1, -1, 0.5, -1e-9)]
    numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**20), 10**20)
    values = [data.draw(st.sampled_from(near) if near and i % 2 else numbers) for i in range(6)]
    try:
        found = judge(schema)
    except SchemaError:
        assert not any(valid(schema, value) for value in values)
        return
    for value in values:
        if kind == "integer" and isinstance(value, float):
            continue  # 1.0 is an integer, but not written so
        assert found.accepts(json.dumps(value)) == valid(schema, value), value
    writer = Writer(found.grammar, data.draw(st.integers(0, 99)))
    assert all(valid(schema, json.loads(writer.text())) for _ in range(5))


@pytest.mark.parametrize(
    ("kind", "bound"),
    [
        ("integer", 1e300),
        ("integer", -(10**40) - 7),
        ("number", -1e300),
        ("number", 1.7976931348623157e308),
        ("number", 1e-300),
    ],
)
def test_bounds_of_many_digits(kind, bound):
    """Outside hypothesis, which raises Python's recursion limit: these were as deep as they are long."""
    beside = [math.nextafter(float(bound), end) for end in (math.inf, -math.inf)]
    values = [0, bound, -bound, bound / 2, *(value for value in beside if math.isfinite(value))]
    for limits in ({"minimum": bound}, {"maximum": bound}, {"exclusiveMinimum": 0, "maximum": bound}):
        schema = {"type": kind, **limits}
        if kind == "number":
            written = [float(value) for value in values]
        else:
            written = [int(value) for value in values] + [int(bound) + 1, int(bound) - 1]
        try:
            found = judge(schema)
        except SchemaError:
            assert not any(valid(schema, value) for value in written)
            continue
        for value in written:
            assert found.accepts(json.dumps(value)) == valid(schema, value), (schema, value)


def test_too_many_digits_and_too_deep_are_refused():
    deep = {"type": "integer"}
    for _ in range(2000):
        deep = {"type": "array", "items": deep}
    for schema, words in (({"maximum": 10**5000}, "too many digits"), (deep, "nested too deeply")):
        with pytest.raises(SchemaError, match=words):
            grammars.from_schema(schema)


READERS = {
    "date": datetime.date.fromisoformat,
    "date-time": lambda s: datetime.datetime.fromisoformat(s.replace("Z", "+00:00")),
    "uuid": uuid.UUID,
    "uuid4": TypeAdapter(UUID4).validate_python,
    "base64": lambda s: base64.b64decode(s, validate=True),
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "uri": TypeAdapter(AnyUrl).validate_python,
}


@pytest.mark.parametrize("name", READERS)
def test_formats_are_read_by_python(name):
    writer = Writer(grammars.from_schema({"type": "string", "format": name}), seed=5)
    texts = [json.loads(writer.text()) for _ in range(40)]
    for text in texts:
        if not re.search(r"\.\d{1,5}[Z+-]", text):  # Python 3.10 reads 3 or 6 digits
            READERS[name](text)
    assert len(set(texts)) > 30


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_keywords_and_formats(case):
    schema = case["schema"]
    assert accepts(schema, *case["accepts"]) == [True] * len(case["accepts"])
    assert accepts(schema, *case["refuses"]) == [False] * len(case["refuses"])
    if "nullable" not in case["name"] and "draft" not in case["name"]:
        assert all(valid(schema, value) for value in case["accepts"])


def test_recursion():
    schema = {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "v": {"type": "integer"},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                },
                "required": ["v"],
            }
        },
    }
    deep = {"v": 0}
    for i in range(30):
        deep = {"v": i, "next": deep}
    assert accepts(schema, deep, {"v": 1, "next": None}, {"v": 1, "next": {}}) == [True, True, False]
    tree = {"type": "array", "items": {"$ref": "#"}}
    assert accepts(tree, [[], [[]]], [1]) == [True, False]


# Names of the rules that are there anyway, in GBNF and in Lark, and what becomes one of them.
NAMES = ["root", "Root", "ROOT", "root-value", "root-2", "integer", "string", "value", "ws", "object", "char"]
NAMES += [
    "number",
    "rule",
    "member",
    "key",
    "start",
    "T0",
    "r1",
    "",
    "1",
    "a b",
    "a-b",
    "a_b",
    "é",
    "É",
    "\U0001f600",
]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_takes_the_place_of_a_rule(name):
    declared = {
        "type": "object",
        "properties": {
            name: {"anyOf": [{"type": "null"}, {"type": "array", "items": {"type": "integer"}}]},
            "z": {"type": "integer"},
            "y": {"type": "string", "maxLength": 3},
        },
        "required": [name, "z"],
    }
    good = [{name: [1], "z": 1, "y": "abc"}, {name: None, "z": 2}]
    bad = [
        {name: ["a"], "z": 1},
        {name: [1]},
        [1],
        None,
        {name: [1], "z": 1.5},
        {name: [1], "z": 1, "y": "abcd"},
    ]
    assert accepts(declared, *good, *bad) == [True] * 2 + [False] * len(bad)
    itself = {"$ref": f"#/$defs/{name}"}
    definition = {"properties": {"k": itself, "n": {"type": "integer"}}, "required": ["n"]}
    referred = {
        "$defs": {name: definition},
        "properties": {"a": itself, "s": {"type": "string"}, "x": {"type": "number"}},
        "required": ["a"],
    }
    good = [{"a": {"k": {"n": 1}, "n": 2}}, {"a": {"n": 2}, "s": "q", "x": 1.5}]
    bad = [{"k": {"n": 1}, "n": 2}, {}, {"a": {"n": 1.5}}, {"a": 1}]
    assert accepts(referred, *good, *bad) == [True] * 2 + [False] * len(bad)
    kind = pydantic.create_model(name or "M", **{"x" if not name.isidentifier() else name: (int, ...)})
    (field,) = kind.model_fields
    assert Judge(grammars.from_type(dict[str, kind])).accepts(json.dumps({"a": {field: 1}}))
    tools = [{"name": name or "f", "parameters": {**declared, "required": []}}, {"name": "other"}]
    found = Judge(grammars.from_tools(tools))
    assert found.accepts(f"<|tool_call>call:{name or 'f'}{{z:1}}<tool_call|>")
    assert not found.accepts("{z:1}") and not found.accepts("<|tool_call>call:other{z:1}<tool_call|>")


def test_escaped_literals_are_accepted_both_ways():
    found = judge({"properties": {"größe": {"const": 'é"\\'}}, "required": ["größe"]})
    assert found.accepts('{"größe": "é\\"\\\\"}') and found.accepts('{"gr\\u00f6\\u00dfe":"\\u00e9\\"\\\\"}')


REFUSED = [
    ({"type": "object", "properties": {"a/b": {"type": "int"}}}, "/properties/a~1b/type", "unknown type"),
    ({"type": "string", "pattern": "a(?<=b)"}, "/pattern", "not regular"),
    ({"type": "string", "pattern": r"(a)\1"}, "/pattern", "not regular"),
    ({"type": "string", "pattern": "a("}, "/pattern", "missing"),
    ({"type": "string", "pattern": "[b-a]"}, "/pattern", "bad range"),
    ({"$ref": "other.json"}, "/$ref", "inside the schema"),
    ({"$ref": "#/$defs/none"}, "/$ref", "leads to nothing"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "/oneOf", "at the same time"),
    ({"oneOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}, "/oneOf", "at the same time"),
    ({"anyOf": []}, "/anyOf", "must list"),
    ({"enum": []}, "/enum", "must list"),
    ({"items": {"type": "integer"}, "uniqueItems": True}, "/uniqueItems", "use a list"),
    ({"additionalProperties": {}, "minProperties": 2}, "/minProperties", "not declared"),
    ({"minLength": -1}, "/minLength", "count"),
    ({"minimum": "1"}, "/minimum", "number"),
    ({"required": "a"}, "/required", "list names"),
    ({"properties": []}, "/properties", "object"),
    ({"properties": {"a": 3}, "required": ["a"]}, "/properties/a", "a schema is"),
    ({"type": "integer", "minimum": 3, "maximum": 2}, "", "nothing can satisfy"),
    ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "", "nothing can satisfy"),
    ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "/$defs/a", "refers to itself"),
    ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "", "refers to itself"),
    ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "", "requires itself"),
    (False, "", "nothing can satisfy"),
    ([], "", "a schema is"),
]


@pytest.mark.parametrize(("schema", "pointer", "message"), REFUSED, ids=[r[2] + r[1] for r in REFUSED])
def test_refusals_name_the_place(schema, pointer, message):
    with pytest.raises(SchemaError, match=message) as caught:
        grammars.from_schema(schema)
    assert caught.value.pointer == pointer


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=0, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str = Field(min_length=1, max_length=12, pattern="^[A-Z][a-z]+$")


class Tree(BaseModel):
    value: float = Field(gt=-1, lt=1)
    children: list[Tree] = []


class Everything(BaseModel):
    model_config = ConfigDict(extra="forbid")
    title: str = Field(description="of it", examples=["x"])
    color: Color
    note: Optional[str] = None  # noqa: UP045 - both spellings are to work
    when: datetime.datetime
    day: datetime.date | None
    pet: Annotated[Union[Cat, Dog], Field(discriminator="kind")]  # noqa: UP007
    scores: dict[str, int] = {}
    pair: tuple[int, str]
    many: tuple[bool, ...]
    tree: Tree
    url: HttpUrl
    id: uuid.UUID
    price: decimal.Decimal
    level: Literal[1, 2, "high"]
    flags: set[Literal["a", "b"]]
    by_color: dict[Literal["red", "blue"], float]
    limited: list[Annotated[int, Field(multiple_of=None, gt=5)]] = Field(max_length=3)
    either: int | str | None


VALUE = Everything(
    title="t",
    color=Color.BLUE,
    when=datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.timezone.utc),
    day=None,
    pet=Dog(kind="dog", name="Rex"),
    scores={"a": 1},
    pair=(1, "x"),
    many=(True, False),
    tree=Tree(value=0.25, children=[Tree(value=-0.5)]),
    url="https://example.org/a?b=c",
    id=uuid.UUID(int=5),
    price=decimal.Decimal("1.50"),
    level="high",
    flags={"b"},
    by_color={"red": 1.5},
    limited=[6, 7],
    either=None,
)


def test_pydantic_types_both_ways():
    text = grammars.from_type(Everything)
    found = Judge(text)
    assert found.accepts(VALUE.model_dump_json()) and found.accepts(VALUE.model_dump_json(indent=2))
    assert not found.accepts(VALUE.model_dump_json(exclude={"pet"}))
    writer = Writer(text, seed=2, depth=20)
    for _ in range(40):
        # Any scheme makes a uri, but HttpUrl takes two.
        sample = re.sub(r'"url":\s*"[^"]*"', '"url": "https://example.org"', writer.text())
        Everything.model_validate_json(sample)


@pytest.mark.parametrize(
    ("type_", "good", "bad"),
    [
        (list[int], "[1, 2]", "[1.5]"),
        (Color, '"red"', '"green"'),
        (Literal["a", 1, None], "null", '"b"'),
        (dict[str, list[bool]], '{"x": [true]}', '{"x": true}'),
        (Annotated[str, Field(max_length=3)], '"abc"', '"abcd"'),
        (int | None, "null", '"1"'),
    ],
)
def test_types(type_, good, bad):
    found = Judge(grammars.from_type(type_))
    assert (found.accepts(good), found.accepts(bad)) == (True, False)


def test_types_without_a_schema():
    with pytest.raises(SchemaError, match="Pydantic has no JSON schema"):
        grammars.from_type(Judge)
    with pytest.raises(SchemaError, match="use a list"):
        grammars.from_type(set[int])


def test_order_and_text_are_stable():
    assert grammars.from_type(Everything) == grammars.from_type(Everything)
    assert grammars.from_schema({"type": "object", "properties": {"a": {"type": "integer"}}}).startswith(
        'root ::= "{" ws "}" | "{" ws "\\"a\\":" ws integer ws "}"\n'
    )


def test_the_collector_of_cycles_is_left_as_it_was():
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            grammars.from_schema({"type": "integer"})
            with pytest.raises(SchemaError):
                grammars.from_schema({"type": "nothing"})
            assert gc.isenabled() == enabled
        finally:
            gc.enable()
