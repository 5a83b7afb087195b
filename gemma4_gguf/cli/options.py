"""Options that several commands share. Defaults stay where they are declared: only what was typed goes on."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from gemma4_gguf.errors import SchemaError
from gemma4_gguf.options import Device, KVType, SamplingOptions, SessionOptions
from gemma4_gguf.types import DEFAULT_IMAGE_TOKENS, IMAGE_TOKEN_BUDGETS

MODEL_VARIABLE = "GEMMA4_GGUF_MODEL"
_MODEL_HELP = "a .gguf file, or ORG/REPO[:QUANT] on the hub"


def add_model_options(parser: argparse.ArgumentParser, *, first: bool = True) -> None:
    """The model and how it is opened: fields of SessionOptions.

    Args:
        parser: of the command.
        first: the model is the first argument; otherwise the command works on a file, which comes first, and
            the model is an option.
    """
    if first:
        parser.add_argument("model", metavar="MODEL", help=_MODEL_HELP)
    group = parser.add_argument_group("model", argument_default=argparse.SUPPRESS)
    if not first:
        model_help = f"{_MODEL_HELP} (default: the environment variable {MODEL_VARIABLE})"
        group.add_argument("-m", "--model", metavar="MODEL", help=model_help)
    group.add_argument("--mmproj", dest="projector", metavar="FILE", help="projector (default: beside it)")
    group.add_argument("--device", choices=get_args(Device), help="where the layers run")
    group.add_argument(
        "--gpu-layers", dest="n_gpu_layers", type=int, metavar="N", help="layers on the device"
    )
    group.add_argument("--ctx", dest="n_ctx", type=int, metavar="N", help="tokens the context holds")
    group.add_argument("--threads", dest="n_threads", type=int, metavar="N", help="CPU threads")
    group.add_argument("--kv-type", choices=get_args(KVType), help="type of the key/value cache")


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """How tokens are drawn: fields of SamplingOptions."""
    group = parser.add_argument_group(
        "sampling (default: what the model file recommends)", argument_default=argparse.SUPPRESS
    )
    group.add_argument("--temperature", type=float, metavar="X", help="0 takes the likeliest token")
    group.add_argument("--top-k", type=int, metavar="N", help="candidates kept by rank, 0 keeps all")
    group.add_argument("--top-p", type=float, metavar="X", help="probability mass kept")
    group.add_argument("--min-p", type=float, metavar="X", help="share of the best candidate needed")
    group.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same reply")
    group.add_argument("--max-tokens", type=int, metavar="N", help="length of a reply at most")


def add_turn_options(parser: argparse.ArgumentParser) -> None:
    """What goes with the words."""
    group = parser.add_argument_group("turn")
    group.add_argument("--image", action="append", default=[], metavar="FILE", help="a picture; repeatable")
    group.add_argument("--audio", action="append", default=[], metavar="FILE", help="a sound; repeatable")
    group.add_argument("--video", action="append", default=[], metavar="FILE", help="a clip; repeatable")
    group.add_argument("--system", metavar="TEXT", help="instructions that stand before the conversation")
    group.add_argument("--think", action="store_true", help="let the model think first")
    add_image_tokens(group)


def add_image_tokens(group: argparse._ActionsContainer) -> None:
    """The budget of pictures."""
    group.add_argument(
        "--image-tokens",
        type=_budget,
        choices=(*IMAGE_TOKEN_BUDGETS, "auto"),
        help=f"soft tokens a picture gets at most ({DEFAULT_IMAGE_TOKENS}): more see finer print; auto takes "
        "as many as do not shrink it",
    )


def add_schema_option(parser: argparse.ArgumentParser) -> None:
    """What the answer must be."""
    parser.add_argument(
        "--schema",
        metavar="SCHEMA",
        help="what the answer must be: a .json file with a JSON schema, a .gbnf file, or either as text; "
        "yes|no or any other regular expression",
    )


def read_schema(given: str | None) -> Any:
    """The value for `schema=` of what was typed: the text of a file, a JSON object, a grammar or a pattern.

    Raises:
        SchemaError: a file or a JSON text cannot be read.
    """
    if given is None:
        return None
    path = Path(given)
    is_file = path.suffix in (".json", ".gbnf")
    try:
        text = path.read_text(encoding="utf-8") if is_file else given
        return json.loads(text) if path.suffix == ".json" or text.lstrip().startswith("{") else text
    except (OSError, ValueError) as error:
        place = given if is_file else "--schema"
        raise SchemaError(f"{place} cannot be read: {error}") from error


def _budget(text: str) -> int | str:
    return text if text == "auto" else int(text)


def given(args: argparse.Namespace, kind: type[SessionOptions] | type[SamplingOptions]) -> dict[str, Any]:
    """The fields of an option type that were typed."""
    return {field.name: getattr(args, field.name) for field in fields(kind) if hasattr(args, field.name)}
