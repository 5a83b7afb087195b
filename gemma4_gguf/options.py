"""Option types: frozen dataclasses. Every default of the library is written here, once."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from gemma4_gguf.errors import OptionError
from gemma4_gguf.types import ImageTokens, ToolLike

KVType = Literal["f32", "f16", "q8_0"]
Device = Literal["auto", "cpu", "cuda", "metal", "rocm", "vulkan"]
# (file, bytes there of all files, bytes of all files): called from worker threads, one call at a time.
DownloadProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How the next token is drawn. Defaults are Gemma 4's own recommendation.

    Args:
        temperature: 0 takes the most likely token; otherwise > 0.
        top_k: candidates kept by rank; 0 keeps all.
        top_p: probability mass kept, in (0, 1].
        min_p: candidates below this share of the best one are dropped, in [0, 1].
        repeat_penalty: > 0; 1 leaves the logits alone.
        seed: draws reproduce for the same seed; None takes a fresh one.
        max_tokens: tokens of the reply at most, thought included. None lets it go on until the context is
            full; with a schema, as far as its value sensibly needs.
        stop: texts that end the reply and are not part of it.
        logit_bias: token id to a number added to its logit.
    """

    temperature: float = 1.0
    top_k: int = 64
    top_p: float = 0.95
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class ToolOptions:
    """How tools are called.

    Args:
        tool_choice: "auto" leaves it to the model; "none" shows the tools but lets none be called; "required"
            has at least one called; the name of a tool has that one called. The dicts of OpenAI, Anthropic
            and Gemini say the same, and may name those that may be called.
        parallel_tool_calls: one reply may call more than once.
        strict: calls are drawn along the declarations, so that names, arguments and types are right; it is so
            whenever a call is required or a schema was given, and for tools whose dict says "strict": True.
    """

    tool_choice: str | Mapping[str, Any] = "auto"
    parallel_tool_calls: bool = True
    strict: bool = False


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """How a model is opened.

    Args:
        device: where the layers run; "auto" takes the best one this build of llama.cpp has.
        n_gpu_layers: layers on that device; None places all of them (none on the CPU).
        n_ctx: tokens one conversation can hold; n_ctx × n_seq stays below 2^31.
        n_seq: conversations that can be held at once, 1 to 256.
        n_threads: CPU threads, 1 to 512; None takes the physical cores this process may use.
        kv_type: type of the key/value cache.
        flash_attention: None lets llama.cpp decide per device.
        swa_full: keep the whole history in the sliding-window layers (much more memory).
        snapshot_bytes: memory for copies of the sliding-window cache, with which a conversation can go back
            further than the window: an edited message, a dropped thought, a fork. None takes 256 MiB, or
            two copies if that is more (E2B: 6 MiB each, 31B: 800 MiB); 0 takes none.
        release_pages: on the CPU, give back the pages of the model file that are not needed at once; False
            reads the whole file ahead and keeps it, and reads prompts in larger batches, for a slow disk and
            memory to spare.
    """

    device: Device = "auto"
    n_gpu_layers: int | None = None
    n_ctx: int = 8192
    n_seq: int = 1
    n_threads: int | None = None
    kv_type: KVType = "f16"
    flash_attention: bool | None = None
    swa_full: bool = False
    snapshot_bytes: int | None = None
    release_pages: bool = True


class TurnOptions(TypedDict, total=False):
    """What can be said beside a question, by name.

    Args:
        system: instructions before the conversation.
        tools: what the model may call: Python functions, Pydantic types, dicts as OpenAI, Anthropic, MCP,
            Ollama or Gemini have them.
        thinking: let the model think first.
        image_tokens: budget per picture: 70, 140, 280 (default), 560 or 1120 soft tokens, or "auto", the
            smallest of these that does not shrink it.
        schema: what the text of the reply must be: a Pydantic model or another type, a JSON schema (a dict or
            its text), a list of choices, a Pattern or a compiled regular expression, GBNF text. A thought
            before it is free. A text in it whose length the schema leaves open ends after 2,000 characters.
        special_in_content: control tokens that are spelled in texts, such as "<turn|>", are control tokens.
            Otherwise they are characters in every text of a conversation, its tools and their results, so
            that no page which a tool returns can end a turn: only the template writes control tokens.
        sampling: how tokens are drawn; None takes what the file recommends.

    The other names are single fields of SamplingOptions and ToolOptions, which tell what they mean.
    """

    system: str | None
    tools: Sequence[ToolLike] | None
    thinking: bool
    image_tokens: ImageTokens | None
    schema: Any
    special_in_content: bool
    sampling: SamplingOptions | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repeat_penalty: float
    seed: int | None
    max_tokens: int | None
    stop: str | Sequence[str] | None
    logit_bias: Mapping[int, float] | Sequence[tuple[int, float]]
    tool_choice: str | Mapping[str, Any]
    parallel_tool_calls: bool
    strict: bool


class SessionFields(TypedDict, total=False):
    """Fields of SessionOptions by name, which tells what they mean."""

    device: Device
    n_gpu_layers: int | None
    n_ctx: int
    n_seq: int
    n_threads: int | None
    kv_type: KVType
    flash_attention: bool | None
    swa_full: bool
    snapshot_bytes: int | None
    release_pages: bool


@dataclass(frozen=True, kw_only=True)
class HubOptions:
    """Where a repository of the hub is asked for, and where its files land.

    Args:
        revision: branch, tag or commit; None takes the main branch.
        token: access token; None takes HF_TOKEN or the stored login.
        cache_dir: directory of all downloads; None takes the cache that HF_HOME or HF_HUB_CACHE names.
        endpoint: base URL of the hub; None takes HF_ENDPOINT or the public one.
        progress: called as (file, bytes there, bytes in all), from worker threads, one call at a time.
    """

    revision: str | None = None
    token: str | None = field(default=None, repr=False)
    cache_dir: Path | None = None
    endpoint: str | None = None
    progress: DownloadProgress | None = None


_LARGEST = 2**31 - 1
# Least, most, and what None means where it is allowed. LLAMA_MAX_SEQ, GGML_MAX_N_THREADS.
_SESSION_RANGES = {
    "n_ctx": (1, _LARGEST, ""),
    "n_seq": (1, 256, ""),
    "n_threads": (1, 512, ", or None for all cores"),
    "n_gpu_layers": (0, _LARGEST, ", or None for all layers"),
    "snapshot_bytes": (0, 2**63 - 1, ", or None for 256 MiB or more"),
}
# llama.cpp draws with 32-bit numbers, in which larger and smaller ones are infinite or 0.
_NUMBERS = {
    "temperature": (0.0, 1e6, "a number from 0 to 1,000,000"),
    "top_p": (1e-30, 1.0, "a number above 0, at most 1"),
    "min_p": (0.0, 1.0, "a number from 0 to 1"),
    "repeat_penalty": (1e-3, 1e3, "a number from 0.001 to 1,000"),
}
_WHOLE_NUMBERS = {
    "top_k": (0, "a whole number, 0 or more"),
    "max_tokens": (1, "a whole number, 1 or more, or None"),
    "seed": (0, "a whole number, 0 or more, or None"),
}
_LARGEST_BIAS = 1e30


def session_options(given: Mapping[str, Any]) -> SessionOptions:
    """SessionOptions with the given fields.

    Args:
        given: values by field name.

    Returns:
        Options; what is not given has its default.

    Raises:
        OptionError: a name is unknown, or as for `check_session_options`.
    """
    _require_names(SessionOptions, given)
    return check_session_options(SessionOptions(**given))


def check_session_options(options: SessionOptions) -> SessionOptions:
    """Checks how a model is to be opened: llama.cpp ends the process on some values and wraps others around.

    Args:
        options: of any values.

    Returns:
        The same, whole numbers of other libraries (numpy) as int.

    Raises:
        OptionError: a value is of another type or out of range, or two contradict each other.
    """
    for name, choices in (("device", get_args(Device)), ("kv_type", get_args(KVType))):
        value = getattr(options, name)
        if not isinstance(value, str) or value not in choices:
            raise OptionError(f"{name} is {value!r}; expected one of {', '.join(choices)}.")
    for name in ("swa_full", "release_pages", "flash_attention"):
        value = getattr(options, name)
        if not isinstance(value, bool) and not (value is None and name == "flash_attention"):
            raise OptionError(f"{name} is {value!r}; expected True or False.")
    whole: dict[str, Any] = {}
    for name, (least, most, unset) in _SESSION_RANGES.items():
        value = getattr(options, name)
        if value is None and unset:
            continue
        number = _whole(value)
        if number is None or not least <= number <= most:
            raise OptionError(
                f"{name} is {value!r}; expected a whole number from {least:,} to {most:,}{unset}."
            )
        whole[name] = number
    options = replace(options, **whole)
    if options.n_ctx * options.n_seq > _LARGEST:
        raise OptionError(
            f"n_ctx is {options.n_ctx:,}, n_seq {options.n_seq}; expected at most {_LARGEST:,} tokens in all."
        )
    if options.kv_type == "q8_0" and options.flash_attention is False:
        raise OptionError(
            "A q8_0 cache needs flash attention. Leave flash_attention out, or take kv_type='f16'."
        )
    return options


def hub_options(given: Mapping[str, Any]) -> HubOptions:
    """HubOptions with the given fields.

    Args:
        given: values by field name.

    Returns:
        Options; what is not given has its default.

    Raises:
        OptionError: a name is unknown.
    """
    _require_names(HubOptions, given)
    return HubOptions(**given)


def with_overrides(options: SamplingOptions, given: Mapping[str, Any]) -> SamplingOptions:
    """SamplingOptions with some fields replaced.

    Args:
        options: what is not given stays as here.
        given: fields by name; `stop` may be one text, `logit_bias` a dict.

    Returns:
        New options; the given ones are left alone.

    Raises:
        OptionError: a name is unknown or a value out of range.
    """
    _require_names(SamplingOptions, given)
    if not isinstance(options, SamplingOptions):
        raise OptionError(
            f"sampling is {options!r}; expected SamplingOptions, such as SamplingOptions(seed=1)."
        )
    options = replace(options, **given)
    checked: dict[str, Any] = {name: _number(name, getattr(options, name)) for name in _NUMBERS}
    checked |= {name: _whole_number(name, getattr(options, name)) for name in _WHOLE_NUMBERS}
    stop, bias = _stop(options.stop), _logit_bias(options.logit_bias)
    return replace(options, **checked, stop=stop, logit_bias=bias)


def _number(name: str, value: Any) -> float:
    """A number of any library (numpy) as float."""
    least, most, expected = _NUMBERS[name]
    if not _is_number(value) or not least <= value <= most:
        raise OptionError(f"{name} is {_shown(value)}; expected {expected}.")
    return float(value)


def _whole_number(name: str, value: Any) -> int | None:
    least, expected = _WHOLE_NUMBERS[name]
    if value is None and "None" in expected:
        return None
    number = _whole(value)
    if number is None or number < least:
        raise OptionError(f"{name} is {_shown(value)}; expected {expected}.")
    return number


def _stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    texts = (value,) if isinstance(value, str) else value
    kinds = (Sequence, Set, Iterator)  # a mapping, or bytes, would give something else than its texts
    if isinstance(texts, (bytes, bytearray)) or not isinstance(texts, kinds):
        texts = (None,)
    texts = tuple(texts)
    if not all(map(_is_text, texts)):
        raise OptionError(
            f"stop is {_shown(value)}; expected a text or several, none of them empty or with halves of "
            "surrogate pairs."
        )
    return texts


def _logit_bias(value: Any) -> tuple[tuple[int, float], ...]:
    """Ids may be texts of digits, as JSON has no other keys; a bias of minus infinity bars a token."""
    pairs = value.items() if isinstance(value, Mapping) else () if value is None else value
    found: dict[int, float] = {}
    try:
        for token, bias in pairs:
            digits = isinstance(token, str) and token.isascii() and token.isdigit()
            number = int(token) if digits else _whole(token)
            if number is None or not _is_number(bias):
                raise TypeError
            if not -_LARGEST_BIAS <= bias <= _LARGEST_BIAS and bias != -math.inf:
                raise TypeError
            found[number] = float(bias)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"logit_bias is {_shown(value)}; expected token ids, with a finite number or minus infinity each."
        ) from error
    return tuple(found.items())


def _shown(value: Any) -> str:
    """A value as a message shows it, cut where it is long."""
    said = repr(value)
    return said if len(said) <= 200 else f"{said[:200]}…"


def turn_options(
    given: Mapping[str, Any], sampling: SamplingOptions
) -> tuple[dict[str, Any], SamplingOptions, ToolOptions]:
    """Sorts what was said beside a question.

    Args:
        given: TurnOptions.
        sampling: what is not given stays as here.

    Returns:
        What is a field of neither kind of options; how tokens are drawn; how tools are called.

    Raises:
        OptionError: a name is unknown or a value out of range.
    """
    known = TurnOptions.__annotations__
    for name in given:
        if name not in known:
            raise OptionError(f"There is no option {name!r}; known are {', '.join(known)}.")
    rest = dict(given)
    fields_of = {kind: {field.name for field in fields(kind)} for kind in (SamplingOptions, ToolOptions)}
    drawn, called = ({n: rest.pop(n) for n in given if n in fields_of[kind]} for kind in fields_of)
    for name in ("thinking", "special_in_content", "parallel_tool_calls", "strict"):
        value = given.get(name, False)
        if not isinstance(value, (bool, int)) or value not in (True, False):
            raise OptionError(f"{name} is {_shown(value)}; expected True or False.")
    base = rest.pop("sampling", None)
    base = sampling if base is None else base
    return rest, with_overrides(base, drawn), ToolOptions(**called)


def _require_names(
    kind: type[SessionOptions] | type[HubOptions] | type[SamplingOptions], given: Mapping[str, Any]
) -> None:
    known = [field.name for field in fields(kind)]
    for name in given:
        if name not in known:
            raise OptionError(f"There is no option {name!r}; known are {', '.join(known)}.")


def _whole(value: Any) -> int | None:
    """The int behind a whole number of any library; None for anything else, bool included."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and not any("\ud800" <= c <= "\udfff" for c in value)
