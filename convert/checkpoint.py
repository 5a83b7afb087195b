"""Checkpoint reader: the JSON files and shards of a checkpoint directory, complete or refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemma4_gguf.convert.safetensors import SourceTensor, read_header
from gemma4_gguf.errors import CheckpointError

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # "organisation/name"


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face checkpoint directory.

    Args:
        directory: absolute.
        name: what the model is called: the hub id, or the name of the directory.
        config: config.json.
        tensors: by stored name; shards in order, names sorted within a shard.
    """

    directory: Path
    name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, SourceTensor]

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON object file of the directory, or None if it is not there.

        Raises:
            CheckpointError: the file is no JSON object.
        """
        return read_json(self.directory / name)


def open_checkpoint(directory: Path, *, name: str | None = None) -> Checkpoint:
    """Read config.json and every safetensors header of a directory.

    Args:
        directory: of the checkpoint.
        name: what the model is called, such as its hub id; None takes the name of the directory.

    Raises:
        CheckpointError: no config, no weights, a damaged file, a missing shard, or quantized weights.
    """
    directory = Path(directory).expanduser()
    if not directory.is_dir():
        way_out = "Give the directory that holds config.json."
        if _HUB_ID.fullmatch(str(directory)) and not directory.exists():
            way_out += f' Is it on the hub? Pass gemma4_gguf.pull("{directory}") and name="{directory}".'
        raise CheckpointError(f"{directory} is not a directory. {way_out}")
    directory = directory.resolve()
    config = read_json(directory / CONFIG)
    if config is None:
        if (directory / "adapter_config.json").is_file():
            raise CheckpointError(
                f"{directory} holds a LoRA adapter, not a model. Merge it into its base model "
                "(peft: merge_and_unload) and convert the result."
            )
        raise CheckpointError(
            f"{directory} has no {CONFIG}. Give the directory of a Hugging Face checkpoint."
        )
    _refuse_quantized(directory, config)
    tensors: dict[str, SourceTensor] = {}
    for path, expected in _weight_files(directory).items():
        found = read_header(path)
        if expected is not None:
            _compare_with_index(path, expected, found)
        for tensor in sorted(found.values(), key=lambda tensor: tensor.name):
            if tensor.name in tensors:
                other = tensors[tensor.name].path.name
                raise CheckpointError(
                    f"{tensor.name} is in {other} and again in {path.name}. Remove one shard set."
                )
            tensors[tensor.name] = tensor
    if not tensors:
        raise CheckpointError(
            f"{directory}: the safetensors files hold no tensor. Download the checkpoint again."
        )
    return Checkpoint(directory, name or directory.name, config, tensors)


def read_json(path: Path) -> dict[str, Any] | None:
    """Parse a JSON object file; None if there is no such file."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}). Download or save it again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__} where an object belongs.")
    return value


def _refuse_quantized(directory: Path, config: Mapping[str, Any]) -> None:
    text = config.get("text_config")
    for section in (config, text if isinstance(text, dict) else {}):
        # The second key is MLX's.
        quantization = section.get("quantization_config") or section.get("quantization")
        if quantization:
            method = "mlx" if "quantization" in section else "unnamed"
            if isinstance(quantization, dict):
                method = quantization.get("quant_method", method)
            break
    else:
        if not (directory / "hf_quant_config.json").is_file():
            return
        method = "modelopt"
    raise CheckpointError(
        f"{directory / CONFIG} says that the weights are quantized already ({method}). "
        "Convert the checkpoint in BF16, F16 or F32 that it was made from."
    )


# Shards


def _weight_files(directory: Path) -> dict[Path, set[str] | None]:
    """Each safetensors file in reading order, with the tensor names that the index, if any, places there."""
    index = read_json(directory / INDEX)
    if index is not None:
        return _indexed_files(directory, index)
    files = sorted(path for path in directory.glob("model*.safetensors") if path.is_file())
    if files:
        _check_shard_count(files)
        return dict.fromkeys(files)
    for pattern, what in (("*.bin", "PyTorch .bin"), ("*.pth", "PyTorch .pth"), ("*.gguf", "GGUF")):
        if any(directory.glob(pattern)):
            raise CheckpointError(
                f"{directory} has {what} files but no model*.safetensors. "
                "Save the model again with safetensors (save_pretrained does by default)."
            )
    raise CheckpointError(
        f"{directory} has no weights: expected model.safetensors or {INDEX} with its shards."
    )


def _indexed_files(directory: Path, index: dict[str, Any]) -> dict[Path, set[str] | None]:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{directory / INDEX} has no weight_map. Download the checkpoint again.")
    shards: dict[Path, set[str] | None] = {}
    for file in sorted({str(file) for file in weight_map.values()}):
        if Path(file).name != file or not file:
            raise CheckpointError(
                f"{directory / INDEX} names {file!r}, which is not a file of this directory."
            )
        shards[directory / file] = {name for name, where in weight_map.items() if where == file}
    missing = [path.name for path in shards if not path.is_file()]
    if missing:
        raise CheckpointError(
            f"{directory}: {len(missing)} of {len(shards)} shards named by {INDEX} are missing: "
            f"{first_names(missing)}. Download them."
        )
    return shards


def _check_shard_count(files: list[Path]) -> None:
    """Without an index, the names model-0000i-of-0000n must be complete and alone."""
    totals = {path.stem.rpartition("-of-")[2] for path in files if "-of-" in path.stem}
    if not totals:
        return
    total = next(iter(totals))
    if len(totals) > 1 or not total.isdecimal() or len(files) != int(total):
        raise CheckpointError(
            f"{files[0].parent}: found {first_names([path.name for path in files])}, "
            f"which is no complete set of shards. Download the missing ones, and {INDEX}."
        )


def _compare_with_index(path: Path, expected: set[str], found: Mapping[str, SourceTensor]) -> None:
    if missing := sorted(expected - set(found)):
        raise CheckpointError(
            f"{path} lacks {len(missing)} tensors that {INDEX} places there: {first_names(missing)}. "
            "Download it again."
        )
    if extra := sorted(set(found) - expected):
        raise CheckpointError(
            f"{path} holds {len(extra)} tensors that {INDEX} does not place there: {first_names(extra)}. "
            "The index belongs to other files."
        )


def first_names(names: list[str], most: int = 3) -> str:
    """The first of some names, for a message; "…" stands for the others."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
