"""Random JSON schemas, each with a strategy for values that satisfy it."""

from __future__ import annotations

from hypothesis import strategies as st

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
names = st.text('abcdXY_é"\\ ', min_size=1, max_size=4)
scalars = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | texts
anything = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(names, v, max_size=3))
PATTERNS = [
    "^[a-z]{2,4}$",
    "b+",
    "^(?:ab|c)*d?$",
    '^[^"x]+$',
    r"^\d{1,3}(,\d{3})*$",
    "^(?=.*[0-9])[a-z0-9]{1,6}$",
]
KINDS = ["null", "boolean", "integer", "number", "string", "enum", "const", "any", "pattern"]


@st.composite
def plain(draw):
    kind = draw(st.sampled_from(KINDS))
    if kind in ("null", "boolean"):
        return {"type": kind}, st.none() if kind == "null" else st.booleans()
    if kind == "any":
        return draw(st.sampled_from([{}, True])), anything
    if kind == "const":
        value = draw(anything)
        return {"const": value}, st.just(value)
    if kind == "enum":
        values = draw(st.lists(anything, min_size=1, max_size=4))
        return {"enum": values}, st.sampled_from(values)
    if kind == "pattern":
        pattern = draw(st.sampled_from(PATTERNS))
        alphabet = st.characters(max_codepoint=0x2FF, exclude_categories=["Cs", "Nd"]) | st.characters(
            min_codepoint=0x30, max_codepoint=0x39
        )
        return {"type": "string", "pattern": pattern}, st.from_regex(pattern, alphabet=alphabet).map(
            lambda s: s.removesuffix("\n")
        )
    if kind == "string":
        low = draw(st.integers(0, 4))
        high = draw(st.none() | st.integers(low, low + 5))
        schema = {"type": "string", "minLength": low} | ({} if high is None else {"maxLength": high})
        return schema, st.text(
            st.characters(exclude_categories=["Cs"]), min_size=low, max_size=low + 5 if high is None else high
        )
    return draw(numbers(kind))


@st.composite
def numbers(draw, kind):
    reals = st.floats(-1e6, 1e6, allow_nan=False) | st.integers(-2000, 2000)
    low = draw(st.none() | (st.integers(-2000, 2000) if kind == "integer" else reals))
    high = draw(st.none() | st.integers(0, 500).map(lambda d: (low or 0) + d + 2))
    schema = {"type": kind}
    sides = {"min": low, "max": high}
    for side, bound in sides.items():
        if bound is not None:
            schema[draw(st.sampled_from([f"{side}imum", f"exclusive{side.title()}imum"]))] = bound

    def inside(value):
        return not (
            ("minimum" in schema and value < low)
            or ("exclusiveMinimum" in schema and value <= low)
            or ("maximum" in schema and value > high)
            or ("exclusiveMaximum" in schema and value >= high)
        )

    if kind == "integer":
        first = low if low is not None else (high or 0) - 10**9
        last = high if high is not None else first + 2 * 10**9
        return schema, st.integers(first, last).filter(inside)
    values = st.floats(low, high, allow_nan=False, allow_infinity=False).filter(inside)
    return schema, values


@st.composite
def arrays(draw, inner):
    item, item_values = draw(inner)
    low = draw(st.integers(0, 3))
    high = draw(st.none() | st.integers(low, low + 3))
    schema = {"type": "array", "items": item, "minItems": low}
    if high is not None:
        schema["maxItems"] = high
    if draw(st.booleans()):
        return schema, st.lists(item_values, min_size=low, max_size=low + 3 if high is None else high)
    first = draw(st.lists(inner, min_size=1, max_size=3))
    schema["prefixItems"] = [s for s, _ in first]
    schema["items"] = draw(st.sampled_from([item, False]))
    limit = len(first) if schema["items"] is False else 10**9
    schema["minItems"] = min(low, limit)
    values = [v for _, v in first]

    @st.composite
    def value(draw):
        n = draw(st.integers(schema["minItems"], min(limit, schema.get("maxItems", 5), 5)))
        return [draw(values[i] if i < len(values) else item_values) for i in range(n)]

    if schema["minItems"] > min(limit, schema.get("maxItems", 5), 5):
        schema["minItems"] = 0
    return schema, value()


@st.composite
def objects(draw, inner):
    fields = draw(st.dictionaries(names, inner, max_size=4))
    required = [name for name in fields if draw(st.booleans())]
    schema = {"type": "object", "properties": {n: s for n, (s, _) in fields.items()}, "required": required}
    more = draw(st.sampled_from(["absent", "no", "any", "schema"]))
    extra, extra_values = draw(inner)
    if more != "absent":
        schema["additionalProperties"] = {"no": False, "any": True, "schema": extra}[more]
    values = {"any": anything, "schema": extra_values}.get(more)

    @st.composite
    def value(draw):
        out = {n: draw(v) for n, (_, v) in fields.items() if n in required or draw(st.booleans())}
        if values is not None:
            further = draw(st.dictionaries(names | texts, values, max_size=2))
            out |= {n: v for n, v in further.items() if n not in fields}
        return out

    if not fields and more == "absent":
        return {"type": "object"}, st.dictionaries(texts, anything, max_size=2)
    return schema, value()


@st.composite
def unions(draw, inner):
    branches = draw(st.lists(inner, min_size=1, max_size=3))
    kind = draw(st.sampled_from(["anyOf", "ref", "tagged"]))
    if kind == "anyOf":
        return {"anyOf": [s for s, _ in branches]}, st.one_of(*(v for _, v in branches))
    if kind == "ref":
        schema, values = branches[0]
        return {"allOf": [schema, {"description": "the same"}]}, values
    tagged = [
        {"type": "object", "properties": {"kind": {"const": i}, "value": s}, "required": ["kind", "value"]}
        for i, (s, _) in enumerate(branches)
    ]
    values = [v.map(lambda v, i=i: {"kind": i, "value": v}) for i, (_, v) in enumerate(branches)]
    return {"oneOf": tagged}, st.one_of(*values)


schemas = st.recursive(plain(), lambda inner: arrays(inner) | objects(inner) | unions(inner), max_leaves=6)
