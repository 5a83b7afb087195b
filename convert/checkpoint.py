"""Checkpoint reader: the JSON files and shards of a checkpoint directory, complete or refused."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gemma4_gguf.convert.safetensors import SourceTensor
from gemma4_gguf.convert.stored_quantization import check_not_quantized
from gemma4_gguf.convert.weight_files import INDEX, first_names, read_weights
from gemma4_gguf.errors import CheckpointError
from gemma4_gguf.files.source_files import MAX_JSON, MAX_TEXT, SourceFiles

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # "organisation/name"
_MAX_INDEX = 32 << 20


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face checkpoint directory.

    Args:
        directory: absolute.
        name: what the model is called: the hub id, or the name of the directory or of the link to it.
        config: config.json.
        tensors: by stored name; shards in order, names sorted within a shard.
        files: what reads its files, and knows whether they are still the same.
        notes: what whoever converts it should know.
    """

    directory: Path
    name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, SourceTensor]
    files: SourceFiles = field(default_factory=SourceFiles)
    notes: tuple[str, ...] = ()

    def json(self, name: str, limit: int = MAX_JSON) -> dict[str, Any] | None:
        """A JSON object file of the directory, or None if it is not there.

        Raises:
            CheckpointError: the file is no JSON object, or larger than the limit in bytes.
        """
        return read_json(self.directory / name, self.files, limit)

    def text(self, name: str) -> str | None:
        """A text file of the directory without its byte order mark, or None if it is not there.

        Raises:
            CheckpointError: the file is neither UTF-8 nor UTF-16 with a mark.
        """
        data = self.files.read(self.directory / name, MAX_TEXT)
        if data is None:
            return None
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        try:
            return data.decode("utf-16" if wide else "utf-8-sig")
        except UnicodeDecodeError as error:
            raise CheckpointError(
                f"{self.directory / name} is no UTF-8 text ({error.reason} at byte {error.start}). "
                "Save it as UTF-8."
            ) from error


def open_checkpoint(directory: Path, *, name: str | None = None) -> Checkpoint:
    """Read config.json and every safetensors header of a directory.

    Args:
        directory: of the checkpoint.
        name: what the model is called, such as its hub id; None takes the hub id of a directory of the hub's
            cache, else the name of the directory, or of the link that leads to it.

    Raises:
        CheckpointError: no config, no weights, a damaged file, a missing shard, or quantized weights.
    """
    given = Path(os.path.expanduser(directory))  # noqa: PTH111  Path.expanduser raises for unknown users
    if not os.path.isdir(given):  # noqa: PTH112  Path.is_dir raises for names that are too long
        raise CheckpointError(_no_directory(given))
    directory = given.resolve()
    files = SourceFiles()
    config = read_json(directory / CONFIG, files)
    if config is None:
        raise CheckpointError(_no_config(directory))
    index = read_json(directory / INDEX, files, _MAX_INDEX)
    tensors, left = read_weights(directory, index, files)
    notes = [check_not_quantized(directory, config, tensors)]
    if left:
        notes.append(f"Not read, since they are no part of the model: {first_names(list(left), 5)}.")
    if (directory / ADAPTER).is_file():
        notes.append(f"{ADAPTER} lies beside the weights. They are converted as they are, without it.")
    return Checkpoint(
        directory, _clean(name or _name_of(given)), config, tensors, files, tuple(filter(None, notes))
    )


def read_json(path: Path, files: SourceFiles, limit: int = MAX_JSON) -> dict[str, Any] | None:
    """Parse a JSON object file; None if there is no such file.

    Raises:
        CheckpointError: the file is no JSON object, no regular file, or larger than the limit in bytes.
    """
    data = files.read(path, limit)
    if data is None:
        return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}). Download or save it again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__} where an object belongs.")
    return value


# Names


def _name_of(given: Path) -> str:
    """A link keeps its own name, "." gets one, and the hub's cache is read backwards."""
    path = Path(os.path.abspath(given))  # noqa: PTH100  Path.resolve would follow the link
    repo, between = path.parents[1].name if len(path.parents) > 1 else "", path.parent.name
    if between == "snapshots" and repo.startswith("models--"):
        return "/".join(repo.split("--")[1:])
    return path.name or "gemma-4"


def _clean(name: str) -> str:
    """Without characters that a terminal would obey or UTF-8 cannot hold."""
    return "".join(c if c.isprintable() else "-" for c in name)


def _no_directory(given: Path) -> str:
    way_out = "Give the directory that holds config.json."
    shown = _clean(str(given))
    if _HUB_ID.fullmatch(shown) and not os.path.exists(given):  # noqa: PTH110
        way_out += f' Is it on the hub? Pass gemma4_gguf.pull("{shown}") and name="{shown}".'
    if given.suffix == ".gguf":
        way_out += " A GGUF file needs no conversion; gemma4_gguf.quantize_file makes it smaller."
    return f"{shown} is not a directory. {way_out}"


def _no_config(directory: Path) -> str:
    if (directory / ADAPTER).is_file():
        return (
            f"{directory} holds a LoRA adapter, not a model. Merge it into its base model "
            "(peft: merge_and_unload) and convert the result."
        )
    inside = sorted(path.parent for path in directory.glob("snapshots/*/config.json"))
    if inside:
        return f"{directory} is a directory of the hub's cache. Give a snapshot in it: {inside[-1]}"
    return f"{directory} has no {CONFIG}. Give the directory of a Hugging Face checkpoint."
