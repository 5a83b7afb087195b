"""The model that a command works with, named in the same four ways everywhere.

-m MODEL, else the first argument, else the environment variable GEMMA4_GGUF_MODEL, else what
`gemma4-gguf config model` has set.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from gemma4_gguf.cli.config import read_settings
from gemma4_gguf.cli.options import MODEL_VARIABLE
from gemma4_gguf.cli.output import byte_progress
from gemma4_gguf.cli.text_input import typed
from gemma4_gguf.errors import OptionError
from gemma4_gguf.files.hub import HUB_ID, HubId, find_files, locate
from gemma4_gguf.options import HubOptions


def chosen_model(args: argparse.Namespace) -> str:
    """The model of a command whose first argument can be nothing else.

    Args:
        args: parsed options of `add_model_argument` and `add_model_options`.

    Returns:
        A path or a hub id.

    Raises:
        OptionError: none is named, or two.
    """
    named = getattr(args, "model", None)
    if named is not None and args.first is not None:
        raise OptionError(f"Two models are named: {args.first} and -m {named}. Leave one out.")
    return named or args.first or _default() or _none_named()


def model_and_words(args: argparse.Namespace, words: Sequence[str]) -> tuple[str, list[str]]:
    """The model of a command whose arguments are words: the first one may be either.

    Args:
        args: parsed options of `add_model_argument` and `add_model_options`.
        words: the other arguments.

    Returns:
        A path or a hub id, and the words.

    Raises:
        OptionError: none is named, or the words are no text.
    """
    named = getattr(args, "model", None)
    if named is None and args.first is not None:
        default = _default()
        if _is_model(args.first, alone=default is not None and not words):
            return args.first, list(words)
        if default is None and not any(c.isspace() for c in args.first):  # a wrong name, which is told
            return args.first, list(words)
        named = default
    said = [] if args.first is None else [typed(args.first, "the question")]
    return named or _default() or _none_named(), [*said, *words]


def downloaded(
    model: str, projector: str | Path | None = None, *, quiet: bool = False
) -> tuple[Path, str | Path | None]:
    """The files of a model, with a bar on stderr while they come from the hub.

    Args:
        model: a path or a hub id.
        projector: as for `find_files`.
        quiet: show nothing.

    Returns:
        Paths of the model and of its projector, or what was given for that.

    Raises:
        HubError: it cannot be downloaded.
    """
    found = locate(model)
    if not isinstance(found, HubId):
        return found, projector
    with byte_progress(f"downloading {found.repo}", quiet=quiet) as progress:
        return find_files(model, projector, HubOptions(progress=progress))


def _default() -> str | None:
    return os.environ.get(MODEL_VARIABLE) or read_settings().get("model")


def _none_named() -> str:
    raise OptionError(
        "No model is named. Give a .gguf file or ORG/REPO first or as -m MODEL, set the environment variable "
        f"{MODEL_VARIABLE}, or choose one for good: gemma4-gguf config model FILE."
    )


def _is_model(word: str, *, alone: bool) -> bool:
    """Whether the first of some words is a model, although another one would be there.

    Args:
        word: it.
        alone: nothing follows; then "yes/no" is a question, not a hub id.
    """
    if word.lower().endswith(".gguf"):
        return True
    try:
        path = Path(word).expanduser()
        if path.is_file():
            with path.open("rb") as file:
                return file.read(4) == b"GGUF"
    except (OSError, ValueError, RuntimeError):
        pass
    found = HUB_ID.fullmatch(word)
    return found is not None and (not alone or found["tag"] is not None)
