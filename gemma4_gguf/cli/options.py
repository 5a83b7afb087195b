"""Shared options: those that several commands have. Defaults stay where they are declared.

Only what was typed goes on to the library (`given`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from gemma4_gguf.cli.text_input import argument, read_file, typed
from gemma4_gguf.errors import OptionError, SchemaError
from gemma4_gguf.options import Device, KVType, SamplingOptions, SessionOptions
from gemma4_gguf.types import DEFAULT_IMAGE_TOKENS, IMAGE_TOKEN_BUDGETS, MODALITIES, Audio, Media, Pattern

MODEL_VARIABLE = "GEMMA4_GGUF_MODEL"
REPLY_AS_JSON = "print the whole reply as JSON at its end"
_MODEL_HELP = "a .gguf file, or ORG/REPO[:QUANT] on the hub"


def add_command(
    commands: Any, run: Callable[[argparse.Namespace], int], name: str, summary: str, description: str
) -> argparse.ArgumentParser:
    """Adds a subcommand.

    Args:
        commands: the subparsers of the main parser.
        run: takes the parsed options and returns the exit code.
        name: what is typed.
        summary: one sentence, for the list of all commands.
        description: what stands above the options in its own help; line breaks are kept.

    Returns:
        Its parser, to which the options are added.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
    )
    parser.set_defaults(run=run)
    return parser


def add_json_option(parser: argparse.ArgumentParser, text: str = "print JSON") -> None:
    """Adds --json.

    Args:
        parser: of the command.
        text: the help, where there is more to say.
    """
    parser.add_argument("--json", action="store_true", help=text)


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Adds --quiet and --json, for a command that shows progress.

    Args:
        parser: of the command.
    """
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    add_json_option(parser)


def add_writing_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of every command that writes GGUF files.

    Args:
        parser: of the command.
    """
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    parser.add_argument("--threads", type=int, metavar="N", help="encoding threads (default: all cores)")
    add_output_options(parser)


def add_hub_options(parser: argparse.ArgumentParser, revision: str) -> None:
    """Adds --revision and --token: fields of HubOptions.

    Args:
        parser: of the command.
        revision: the end of the help: whose branch, or which one is the default.
    """
    parser.add_argument("--revision", help=f"branch, tag or commit {revision}")
    parser.add_argument("--token", help="access token (default: HF_TOKEN, else the stored login)")


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the model as the first argument, which may be left out where `chosen_model` finds it elsewhere.

    Args:
        parser: of the command.
    """
    parser.add_argument("first", nargs="?", metavar="MODEL", help=_MODEL_HELP)


def add_model_option(group: argparse._ActionsContainer) -> None:
    """Adds -m.

    Args:
        group: of options, or a parser.
    """
    default = f"default: the environment variable {MODEL_VARIABLE}, else that of gemma4-gguf config"
    text = f"the same as the model in front ({default})"
    group.add_argument("-m", "--model", metavar="MODEL", default=argparse.SUPPRESS, help=text)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds the model as an option, and how it is opened: fields of SessionOptions.

    Args:
        parser: of the command.
    """
    group = parser.add_argument_group("model", argument_default=argparse.SUPPRESS)
    add_model_option(group)
    group.add_argument("--mmproj", dest="projector", metavar="FILE", help="projector (default: beside it)")
    group.add_argument(
        "--no-mmproj", dest="projector", action="store_const", const=None, help="open no projector: text only"
    )
    group.add_argument("--device", choices=get_args(Device), help="where the layers run")
    group.add_argument(
        "--gpu-layers", dest="n_gpu_layers", type=int, metavar="N", help="layers on the device"
    )
    group.add_argument("--ctx", dest="n_ctx", type=int, metavar="N", help="tokens the context holds")
    group.add_argument("--threads", dest="n_threads", type=int, metavar="N", help="CPU threads")
    group.add_argument("--kv-type", choices=get_args(KVType), help="type of the key/value cache")


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Adds how tokens are drawn: fields of SamplingOptions.

    Args:
        parser: of the command.
    """
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
    """Adds what goes with the words of a turn: attachments, and fields of TurnOptions.

    Args:
        parser: of the command.
    """
    group = parser.add_argument_group("turn")
    for kind, modality in MODALITIES.items():
        text = f"a {modality.noun}; repeatable"
        group.add_argument(f"--{kind}", action="append", default=[], metavar="FILE", help=text)
    group.add_argument(
        "--system", type=argument, metavar="TEXT", help="instructions that stand before the conversation"
    )
    add_think_option(group)
    add_image_tokens(group)


def attachments(args: argparse.Namespace) -> list[Media]:
    """Media that `add_turn_options` took.

    Args:
        args: parsed options.

    Returns:
        Kind by kind, each in the order typed.
    """
    # Sounds come last, as the sound of a clip comes after its frames.
    modalities = sorted(MODALITIES.values(), key=lambda modality: modality.type is Audio)
    return [modality.type(file) for modality in modalities for file in getattr(args, modality.kind)]


def add_think_option(group: argparse._ActionsContainer) -> None:
    """Adds --think.

    Args:
        group: of options, or a parser.
    """
    group.add_argument("--think", action="store_true", help="let the model think first")


def add_image_tokens(group: argparse._ActionsContainer) -> None:
    """Adds the budget of pictures.

    Args:
        group: of options, or a parser.
    """
    group.add_argument(
        "--image-tokens",
        type=_budget,
        choices=(*IMAGE_TOKEN_BUDGETS, "auto"),
        help=f"soft tokens a picture gets at most ({DEFAULT_IMAGE_TOKENS}): more see finer print; auto takes "
        "as many as do not shrink it",
    )


def add_schema_option(parser: argparse.ArgumentParser) -> None:
    """Adds what the answer must be.

    Args:
        parser: of the command.
    """
    parser.add_argument(
        "--schema",
        metavar="SCHEMA",
        help="what the answer must be: a .json file with a JSON schema or a list of choices, a .gbnf file, "
        "or either as text",
    )
    parser.add_argument(
        "--pattern", metavar="REGEX", help="a regular expression that the whole answer must match"
    )


def read_schema(schema: str | None, pattern: str | None = None) -> Any:
    """The value for `schema=` of what was typed.

    Args:
        schema: the name of a .json or .gbnf file, or such a text itself.
        pattern: a regular expression.

    Returns:
        A text, or a Pattern; None for None.

    Raises:
        SchemaError: a file or a JSON text cannot be read, or both were typed.
    """
    if schema is not None and pattern is not None:
        raise SchemaError("--schema and --pattern cannot both be given")
    if pattern is not None:
        return Pattern(_typed_schema(pattern, "--pattern"))
    if schema is None:
        return None
    path = Path(schema)
    if path.suffix.lower() not in (".json", ".gbnf"):
        text = _typed_schema(schema, "--schema")
        if "::=" in text or text.lstrip("\ufeff \t\r\n").startswith(("{", "[")):
            return text
        raise SchemaError(
            f"--schema {schema!r} is no JSON, no GBNF and no .json or .gbnf file. Choices are a JSON list "
            '(--schema \'["yes", "no"]\'); a regular expression is given with --pattern'
        )
    try:
        text = read_file(path)
        value = json.loads(text) if path.suffix.lower() == ".json" else text
        if not isinstance(value, (dict, list, str)) or (isinstance(value, str) and "::=" not in value):
            raise ValueError("it holds no schema, no list of choices and no grammar")
        return value
    except (OptionError, ValueError, RecursionError) as error:
        raise SchemaError(f"{schema} cannot be read: {error}") from error


def _typed_schema(given: str, name: str) -> str:
    try:
        return typed(given, name)
    except OptionError as error:
        raise SchemaError(f"{name} cannot be read: {error}") from error


def _budget(text: str) -> int | str:
    return text if text == "auto" else int(text)


def given(args: argparse.Namespace, kind: type[SessionOptions] | type[SamplingOptions]) -> dict[str, Any]:
    """The fields of an option type that were typed.

    Args:
        args: parsed options.
        kind: the option type.

    Returns:
        Value by field name, for those that were typed alone.
    """
    return {field.name: getattr(args, field.name) for field in fields(kind) if hasattr(args, field.name)}
