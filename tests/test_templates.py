"""Chat templates: equal to the official ones, printed alike by transformers and llama.cpp, safe to run."""

from __future__ import annotations

import datetime
import difflib
import json
import re
import urllib.request
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma4_gguf.errors import TemplateError
from gemma4_gguf.templates import Renderer, family_of, load, render, words_before_calls

DATA = Path(__file__).parent / "data"


def cases(name):
    """What the official templates of July 2026 print for a conversation."""
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


RECORDED = cases("chat_template_cases.jsonl")
RULES = cases("chat_template_rules.jsonl")
SIZES = ("small", "large")
by_size = pytest.mark.parametrize("size", SIZES)


def user(text):
    return {"role": "user", "content": text}


def tool_call(name, id=None, **arguments):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize("case", RECORDED + RULES, ids=lambda c: f"{c['size']} {c['name']}")
def test_prints_what_the_official_template_prints(case):
    if "error" in case:
        with pytest.raises(TemplateError, match="tool message"):
            render(case["messages"], size=case["size"], **case["kwargs"])
    else:
        assert render(case["messages"], size=case["size"], **case["kwargs"]) == case["text"]


def test_there_are_48_recorded_cases_of_both_sizes():
    assert len(RECORDED) == 48
    assert {case["size"] for case in RULES} == set(SIZES)


def test_the_families_differ_in_one_line():
    small, large = (load(size).splitlines() for size in SIZES)
    changed = [
        line
        for line in difflib.ndiff(small, large)
        if line[0] in "+-" and "chat template" not in line  # the heading names the members
    ]
    assert len(changed) == 1
    assert changed[0].startswith("+") and "<|channel>thought\\n<channel|>" in changed[0]


@by_size
def test_llama_cpp_recognises_the_template(size):
    # common/chat.cpp looks for these two strings: Gemma 4 at all, and not an outdated one.
    assert "'<|tool_call>call:'" in load(size)
    assert "{#- OpenAI Chat Completions:" in load(size)


texts = st.text(st.characters(exclude_characters="<>|", exclude_categories=["Cs"]), max_size=12)
assistant = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": st.none() | texts},
    optional={
        "reasoning_content": texts,
        "tool_calls": st.lists(st.sampled_from([tool_call("f", "a", q=1), tool_call("g", "b")]), max_size=2),
    },
)
tool = st.fixed_dictionaries(
    {"role": st.just("tool"), "content": texts, "tool_call_id": st.sampled_from("ab")}
)
conversations = st.lists(st.builds(user, texts) | assistant | tool, max_size=8)


@settings(max_examples=150, deadline=None)
@given(conversations, st.booleans(), st.booleans())
def test_turns_are_balanced_and_sizes_agree(messages, thinking, preserve):
    options = {"enable_thinking": thinking, "preserve_thinking": preserve}
    small, large = (render(messages, size=size, **options) for size in SIZES)
    assert large.removesuffix("<|channel>thought\n<channel|>") == small
    opened, closed = small.count("<|turn>"), small.count("<turn|>")
    waiting = small.count("<|tool_response>") - small.count("<tool_response|>")
    assert opened - closed in range(waiting + 2)
    starts = [match.start() for match in re.finditer(r"<\|turn>", small)]
    assert all(small[:at].endswith(("<bos>", "<turn|>\n", "<|tool_response>")) for at in starts)


@by_size
def test_words_beside_calls_can_go_first(size):
    messages = [
        user("go"),
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "hm",
            "tool_calls": [tool_call("f", "a")],
        },
        {"role": "tool", "tool_call_id": "a", "content": "1"},
    ]
    given_messages = json.loads(json.dumps(messages))
    text = render(words_before_calls(messages), size=size, enable_thinking=True)
    assert text.endswith(
        "<|turn>model\n<|channel>thought\nhm\n<channel|>I look.<|tool_call>call:f{}<tool_call|>"
        '<|tool_response>response:f{value:<|"|>1<|"|>}<tool_response|><|channel>thought\n'
    )
    assert messages == given_messages
    plain = [user("go"), {"role": "assistant", "content": "Hello"}]
    assert words_before_calls(plain) == plain


@by_size
def test_bos_is_the_callers(size):
    without = render([user("Hi")], size=size, bos_token="")
    assert without.startswith("<|turn>user\n")
    assert render([user("Hi")], size=size, bos_token="<s>") == "<s>" + without


def test_family_is_told_by_what_is_printed():
    assert [family_of(load(size)) for size in SIZES] == ["small", "large"]
    assert family_of("{{ messages[0].content }}") is None
    assert family_of("{% if %}") is None
    assert family_of("{{ '<|turn>model\n' if add_generation_prompt }}") == "small"


def test_unknown_size():
    with pytest.raises(TemplateError, match='choose "small" or "large"'):
        load("medium")


def test_compiled_once():
    text = load("large")
    assert Renderer(text).template is Renderer(text).template


def test_a_models_own_template():
    own = Renderer(
        "{% for m in messages %}{% if m.role == 'tool' %}{% continue %}{% endif %}"
        "{% generation %}{{ m | tojson }}{% endgeneration %}{% endfor %}{{ extra }}{{ strftime_now('%Y') }}"
    )
    out = own.render([user("<ä>"), {"role": "tool", "content": ""}], extra="!")
    assert out == '{"role": "user", "content": "<ä>"}!' + str(datetime.datetime.now().year)


REFUSED = {
    "syntax": ("{% for %}", "not valid jinja"),
    "raise_exception": ("{{ raise_exception('no tools here') }}", "no tools here"),
    "undefined": ("{{ messages[0].a.b }}", "could not print"),
    "type": ("{{ 'a' + 1 }}", "could not print"),
    "division": ("{{ 1 / 0 }}", "could not print"),
    "sandbox": ("{{ ''.__class__.__mro__ }}", "unsafe|undefined"),
    "namespace": ("{% set ns = namespace() %}{% set ns.__x = 1 %}", "cannot hold"),
    "endless": ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
    "mutation": ("{{ messages.append(1) }}", "safely callable|unsafe"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals_are_typed(text, message):
    with pytest.raises(TemplateError, match=message):
        Renderer(text).render([user("Hi")])


BIG = "{% set x = 'ab' * 1000000 %}"
GROW = "{% set ns = namespace(x=['a']) %}{% for i in range(60) %}{% set ns.x = "
TOO_MUCH = {
    "range": "{% for i in range(10**9) %}{% endfor %}",
    "nested loops": "{% for i in range(9999) %}" * 3 + "{% endfor %}" * 3,
    "loops without a body": "{% for i in ['a' * 9999] * 999 %}{% for j in i if 0 %}{% endfor %}{% endfor %}"
    * 9,
    "recursive loop": "{% for i in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
    "macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "macro that calls itself twice": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}"
    "{% endmacro %}{{ f(60) }}",
    "blocks": "".join(
        f"{{% block b{i} %}}{{{{ self.b{i + 1}() }}}}{{{{ self.b{i + 1}() }}}}{{% endblock %}}"
        for i in range(40)
    )
    + "{% block b40 %}x{% endblock %}",
    "text of a loop": "{% for i in range(99999) %}" + "x" * 100_000 + "{% endfor %}",
    "times": "{{ 'a' * 10**10 }}",
    "times a list": "{{ 10**9 * [0] }}",
    "power": "{{ 2 ** 999999999 }}",
    "squares": "{% set ns = namespace(x=9) %}{% for i in [1] * 60 %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "plus": GROW + "ns.x + ns.x %}{% endfor %}",
    "tilde": GROW + "ns.x ~ ns.x %}{% endfor %}",
    "set block": "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x %}{{ ns.x }}{{ ns.x }}"
    "{% endset %}{% endfor %}",
    "lists in lists": GROW + "[ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "tuples in tuples": GROW + "(ns.x, ns.x) %}{% endfor %}{{ ns.x | tojson }}",
    "dicts in dicts": GROW + "{'a': ns.x, 'b': ns.x} %}{% endfor %}{{ ns.x == 1 }}",
    "dict()": GROW + "dict(a=ns.x, b=ns.x) %}{% endfor %}{{ ns.x | tojson }}",
    "namespaces": "{% set a = namespace(x=1) %}" + "{% set a = namespace(x=a, y=a) %}" * 60 + "{{ a }}",
    "center": "{{ 'a' | center(10**9) }}",
    "center method": "{{ 'a'.center(10**9) }}",
    "zfill": "{{ 'a'.zfill(10**9) }}",
    "expandtabs": "{{ '\t\t'.expandtabs(10**9) }}",
    "indent": "{% set x = 'a\\n' * 100000 %}{{ x | indent(10**6) }}",
    "format": "{{ '%1000000000d' | format(1) }}",
    "format method": "{{ '{:1000000000}'.format(1) }}",
    "format, found by name": "{{ ('{:1000000000}' | attr('format'))(1) }}",
    "format, width given": "{{ '{:{}}'.format(1, 10**9) }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "percent, width given": "{{ '%*d' % (10**9, 1) }}",
    "replace": BIG + "{{ x | replace('a', x) }}",
    "replace method": BIG + "{{ x.replace('', x) }}",
    "join a stream": BIG + "{{ range(9999) | map('string') | join(x) }}",
    "join": BIG + "{{ range(9999) | join(x) }}",
    "translate": BIG + "{{ x.translate({97: x}) }}",
    "round": "{{ 5 | round(-10**9) }}",
    "tojson": "{{ messages | tojson(indent=10**9) }}",
    "long tojson": BIG + "{% for i in range(100) %}{{ [x, x, x] | tojson }}{% endfor %}",
    "batch": "{{ [1] | batch(10**9, 'x') | list }}",
    "slice": "{{ [1] | slice(10**9) | list }}",
    "lipsum": "{{ lipsum(n=10**7) }}",
    "too long": "x" * 10**6,
}


@pytest.mark.parametrize("text", TOO_MUCH.values(), ids=TOO_MUCH)
def test_a_template_that_wants_too_much_is_stopped(text, monkeypatch):
    monkeypatch.setattr("gemma4_gguf.templates.limits.MAX_SECONDS", 0.2)
    with pytest.raises(TemplateError, match=r"stopped|too big|recursion|undefined|expected at most"):
        Renderer(text).render([user("Hi")])


UNREADABLE = {
    "nested too deeply": "{% for i in [1] %}" * 25 + "{% endfor %}" * 25,
    "break outside": "{% break %}",
    "arguments twice": "{% macro f(a, a) %}{% endmacro %}",
    "keyword twice": "{{ f(a=1, a=2) }}",
    "block twice": "{% block a %}{% endblock %}" * 2,
    "brackets": "{{ " + "[" * 5000,
    "sum": "{{ " + "1+" * 5000 + "1 }}",
    "digits": "{{ " + "9" * 5000 + " }}",
    "infinite": "{{ 1e999 }}",
    "filter": "{{ 1 | nothing }}",
    "include": "{% include 'a' %}",
}


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
def test_whatever_jinja_cannot_compile_is_typed(text):
    with pytest.raises(TemplateError):
        Renderer(text).render([user("Hi")])


def test_a_long_chain_of_conditions_is_read_or_refused():
    """Before Python 3.13 its compiler gives up on it."""
    text = "{% if 0 %}" + "{% elif 0 %}" * 3000 + "{% else %}end{% endif %}"
    try:
        assert Renderer(text).render([user("Hi")]) == "end"
    except TemplateError as error:
        assert "chat template" in str(error)


def test_long_conversations_are_within_the_limits():
    messages = [user("word " * 2000), {"role": "assistant", "content": "word " * 2000}] * 50
    assert len(render(messages)) > 1_000_000


def test_malformed_messages_are_typed():
    for messages in ([{"content": "no role"}], [user(["text"])], ["Hi"]):
        with pytest.raises(TemplateError):
            render(messages)


@pytest.mark.reference
def test_transformers_prints_the_same():
    chat = pytest.importorskip("transformers.utils.chat_template_utils")
    for case in RECORDED + RULES:
        if "text" not in case:
            continue
        options = {"bos_token": "<bos>", "chat_template": load(case["size"]), **case["kwargs"]}
        rendered, _ = chat.render_jinja_template(conversations=[case["messages"]], **options)
        assert rendered == [case["text"]]


@pytest.mark.reference
@by_size
def test_llama_cpp_prints_the_same(size, converted):
    """llama-server's /apply-template (pip install xllamacpp) with the shipped file as its template.

    Left out are conversations that the server changes or refuses before any template sees them: media without
    a projector, a reply to be continued, results that are no text, declared responses.
    """
    engine = pytest.importorskip("xllamacpp")
    options = engine.CommonParams()
    options.model.path = str(converted("e2b")["model"])
    options.chat_template, options.use_jinja = load(size), True
    options.n_ctx, options.cpuparams.n_threads, options.port = 512, 2, 0
    server = engine.Server(options)
    n_same = 0
    for case in RECORDED + RULES:
        messages, kwargs = case["messages"], dict(case["kwargs"])
        plain = all(isinstance(m.get("content") or "", str) and "reasoning" not in m for m in messages)
        tools = kwargs.pop("tools", None) or []
        if case["size"] != size or not messages or not plain or messages[-1]["role"] == "assistant":
            continue
        if any("tool_responses" in m or (m["role"] == "tool" and m["content"] is None) for m in messages):
            continue
        if any("response" in tool["function"] for tool in tools):
            continue
        kwargs.pop("add_generation_prompt")
        kwargs = {"enable_thinking": False, **kwargs}
        body = {"messages": messages, "tools": tools, "chat_template_kwargs": kwargs}
        request = urllib.request.Request(
            server.listening_address + "/apply-template",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert "<bos>" + json.load(answer)["prompt"] == case["text"], case["name"]
        n_same += 1
    assert n_same >= 25
