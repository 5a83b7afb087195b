"""Chat template renderer: templates are loaded, compiled once and rendered in a sandbox as transformers does.

The two shipped files are plain jinja that any llama.cpp app can load; nothing of their text lives in Python.
Environment, filters and functions are those of transformers' `apply_chat_template`, so that a model's own
template prints the same string here. Templates come with models, so they are untrusted: hence the sandbox.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources
from typing import Any, Literal, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from gemma4_gguf.errors import TemplateError
from gemma4_gguf.special_tokens import CHANNEL_CLOSE, CHANNEL_OPEN, TURN_OPEN, any_of
from gemma4_gguf.templates.limits import MAX_TEMPLATE, LimitedEnvironment, instrument, limited

Size = Literal["small", "large"]
# What compiling a foreign template, and its expressions, can run into.
_FOREIGN = (
    jinja2.TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NameError,
    NotImplementedError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
)
_ESCAPED = re.compile(r"[^\x00-\x7f\ud800-\udfff]+")
_PROBE = [{"role": "user", "content": "?"}]


class _Generation(Extension):
    """The `generation` tag marks assistant text for training; it prints its body and nothing else."""

    tags = {"generation"}  # noqa: RUF012 - the attribute jinja2 asks for

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(jinja2.utils.Namespace):
    """Keeps nothing whose name starts with an underscore: such names reach into Python."""

    def __init__(*args: Any, **values: Any) -> None:
        self, *rest = args
        given = dict(*rest, **values)
        for name in given:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, given)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}")


class Renderer:
    """A compiled chat template.

    Args:
        template_text: jinja source, for example a model's `tokenizer.chat_template`.
        marks: texts to what is printed instead of each, but only where the template itself spells it; the
            same text in a message stays.

    Raises:
        TemplateError: the source does not parse.
    """

    def __init__(self, template_text: str, *, marks: Mapping[str, str] | None = None) -> None:
        self.template = _compile(template_text, tuple((marks or {}).items()))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        enable_thinking: bool = False,
        preserve_thinking: bool = False,
        add_generation_prompt: bool = True,
        bos_token: str = "<bos>",
        **variables: Any,
    ) -> str:
        """Print a conversation.

        Args:
            messages: OpenAI-shaped messages.
            tools: OpenAI tool dicts.
            enable_thinking: ask the model for a thought.
            preserve_thinking: keep the thoughts of earlier turns that called tools.
            add_generation_prompt: end where the model is to go on.
            bos_token: printed first; "" when the tokenizer adds it.
            variables: anything else a model's own template reads.

        Returns:
            The prompt.

        Raises:
            TemplateError: the template refuses the conversation.
        """
        try:
            return limited(
                self.template.render,
                messages=list(messages),
                tools=list(tools) if tools else None,
                enable_thinking=enable_thinking,
                preserve_thinking=preserve_thinking,
                add_generation_prompt=add_generation_prompt,
                bos_token=bos_token,
                **variables,
            )
        except _FOREIGN as error:
            raise TemplateError(
                f"the chat template could not print this conversation: {error}. "
                "Check the roles and the parts of the messages, and the tool declarations."
            ) from error


def load(size: Size) -> str:
    """Read a shipped template.

    Args:
        size: "large" for 12B, 26B-A4B and 31B, "small" for E2B and E4B.

    Returns:
        Jinja text.

    Raises:
        TemplateError: there is none of this size.
    """
    if size not in ("small", "large"):
        raise TemplateError(f'there is no template of size {size!r}; choose "small" or "large"')
    return _read(size)


def render(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    size: Size = "large",
    enable_thinking: bool = False,
    preserve_thinking: bool = False,
    add_generation_prompt: bool = True,
    bos_token: str = "<bos>",
) -> str:
    """Print a conversation with a shipped template. Arguments as in `Renderer.render` and `load`."""
    return Renderer(load(size)).render(
        messages,
        tools,
        enable_thinking=enable_thinking,
        preserve_thinking=preserve_thinking,
        add_generation_prompt=add_generation_prompt,
        bos_token=bos_token,
    )


def family_of(template_text: str) -> Size | None:
    """Tell by what it prints to which family a template belongs.

    Returns:
        "large" if it closes an empty thought when thinking is off, "small" if it only opens the model's turn,
        None if it is no Gemma 4 template.
    """
    try:
        prompt = Renderer(template_text).render(_PROBE)
    except TemplateError:
        return None
    if prompt.endswith(f"{TURN_OPEN}model\n{CHANNEL_OPEN}thought\n{CHANNEL_CLOSE}"):
        return "large"
    return "small" if prompt.endswith(f"{TURN_OPEN}model\n") else None


def words_before_calls(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Split assistant messages that hold words and tool calls into two, words first.

    That is the order in which the model wrote them. Printed from one message, the official templates put the
    words after the results, close the turn there, and leave nothing open for the model to go on in.

    Args:
        messages: OpenAI-shaped messages.

    Returns:
        A new list; other messages are copied as they are.
    """
    out: list[dict[str, Any]] = []
    for message in messages:
        words = message.get("content")
        if message.get("role") == "assistant" and words and message.get("tool_calls"):
            out.append({k: v for k, v in message.items() if k not in ("tool_calls", "tool_responses")})
            thoughts = ("reasoning", "reasoning_content")
            out.append({**{k: v for k, v in message.items() if k not in thoughts}, "content": ""})
        else:
            out.append(dict(message))
    return out


@lru_cache(maxsize=8)
def _read(size: str) -> str:
    return resources.files("gemma4_gguf.templates").joinpath(f"gemma4-{size}.jinja").read_text("utf-8")


@lru_cache(maxsize=32)
def _compile(template_text: str, marks: tuple[tuple[str, str], ...]) -> jinja2.Template:
    if len(template_text) > MAX_TEMPLATE:
        raise TemplateError(
            f"the chat template has {len(template_text):,} characters; expected at most {MAX_TEMPLATE:,}. "
            "Use one of the shipped templates (gemma4_gguf.templates.load)."
        )
    try:
        tree = _environment().parse(template_text)
        _put_marks(tree, dict(marks))
        return _environment().from_string(instrument(tree))
    except _FOREIGN as error:
        line = f" (line {error.lineno})" if isinstance(error, jinja2.TemplateSyntaxError) else ""
        raise TemplateError(
            f"the chat template is not valid jinja: {error}{line}. "
            "Use one of the shipped templates (gemma4_gguf.templates.load) or mend it."
        ) from error


def _put_marks(tree: nodes.Template, marks: Mapping[str, str]) -> None:
    spelled = any_of(marks)
    for node in tree.find_all((nodes.TemplateData, nodes.Const)):
        if isinstance(node, nodes.TemplateData):
            node.data = spelled.sub(lambda match: marks[match[0]], node.data)
        elif isinstance(node, nodes.Const) and isinstance(node.value, str):
            node.value = spelled.sub(lambda match: marks[match[0]], node.value)


@lru_cache(maxsize=1)
def _environment() -> LimitedEnvironment:
    environment = LimitedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _tojson
    environment.charge_filters()
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["namespace"] = _Namespace
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """jinja2's own filter escapes HTML; a prompt must not. Marks stay as they are."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
    return _ESCAPED.sub(lambda match: json.dumps(match[0])[1:-1], text) if ensure_ascii else text


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(f"the chat template refuses this conversation: {str(message)[:1000]}")


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)
