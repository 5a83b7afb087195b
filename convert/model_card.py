"""Model card: who made a model, of what and under which licence, as the general.* keys say it.

Name, version and size are guessed as llama.cpp's converter does (gguf.Metadata). The card is front matter in
YAML that people write by hand; what of it is no text, number or list of them is left out.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gguf import Metadata
from gguf.metadata import yaml  # what llama.cpp's converter reads cards with
from gguf.utility import size_label

from gemma4_gguf.convert.checkpoint import Checkpoint
from gemma4_gguf.convert.tensor_specs import MappedTensor
from gemma4_gguf.errors import CheckpointError
from gemma4_gguf.files.gguf_header import Field

log = logging.getLogger(__name__)

_CARD = "README.md"
_MAX_FRONT_MATTER = 1 << 18  # characters
_MAX_LIST = 1000
_MAX_TEXT = 1 << 14  # characters
# Attributes of gguf.Metadata that are texts → key below general.
_TEXTS = {
    "name": "name",
    "author": "author",
    "version": "version",
    "organization": "organization",
    "finetune": "finetune",
    "basename": "basename",
    "description": "description",
    "quantized_by": "quantized_by",
    "size_label": "size_label",
    "license": "license",
    "license_name": "license.name",
    "license_link": "license.link",
    "url": "url",
    "doi": "doi",
    "uuid": "uuid",
    "repo_url": "repo_url",
    "source_url": "source.url",
    "source_doi": "source.doi",
    "source_uuid": "source.uuid",
    "source_repo_url": "source.repo_url",
}
_ORIGIN = ("name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url")


def authorship(checkpoint: Checkpoint, tensors: Sequence[MappedTensor]) -> Iterator[Field]:
    """The keys that say what a model is called and where it comes from.

    Args:
        checkpoint: its README.md and its name are asked.
        tensors: of the file; they give its size label.
    """
    metadata = _describe(checkpoint, tensors)
    for attribute, key in _TEXTS.items():
        value = getattr(metadata, attribute)
        if value is not None:
            value = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            yield Field(f"general.{key}", _plain(value), "STRING")
    for attribute, key in (("base_models", "base_model"), ("datasets", "dataset")):
        origins = getattr(metadata, attribute)
        if origins is None:
            continue
        yield Field(f"general.{key}.count", len(origins), "UINT32")
        for index, origin in enumerate(origins):
            for word in _ORIGIN:
                if word in origin:
                    yield Field(f"general.{key}.{index}.{word}", _plain(str(origin[word])), "STRING")
    for key in ("tags", "languages"):
        if values := getattr(metadata, key):
            yield Field(f"general.{key}", [_plain(str(value)) for value in values], "ARRAY", "STRING")


def _card(checkpoint: Checkpoint) -> dict[str, Any]:
    try:
        lines = (checkpoint.text(_CARD) or "").splitlines()
    except CheckpointError as error:
        log.warning("The model card is left out: %s", error)
        return {}
    if not lines or lines[0] != "---":
        return {}
    end = lines.index("---", 1) if "---" in lines[1:] else len(lines)
    # "no" is a language, and no tab may indent YAML; llama.cpp's converter mends both.
    front = "\n".join(lines[1:end]).replace("\t", "  ") + "\n"
    front = front.replace("- no\n", '- "no"\n')
    try:
        if len(front) > _MAX_FRONT_MATTER:
            raise ValueError(f"it has {len(front)} characters")
        found = yaml.safe_load(front)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        log.warning("The model card is left out: its front matter cannot be read (%s).", error)
        return {}
    if not isinstance(found, dict):
        return {}
    sound = {key: _sound(value) for key, value in found.items() if isinstance(key, str)}
    return {key: value for key, value in sound.items() if value is not None}


def _sound(value: Any, depth: int = 0) -> Any:
    """Scalars, lists and objects of them as they are; None for anything else."""
    if isinstance(value, str | int | float | datetime.date):
        return value
    if isinstance(value, list) and depth == 0:
        items = [_sound(item, depth + 1) for item in value[:_MAX_LIST]]
        return [item for item in items if item is not None]
    if isinstance(value, dict) and depth == 1:
        named = {key: _sound(item, depth + 1) for key, item in value.items() if isinstance(key, str)}
        return {key: item for key, item in named.items() if item is not None}
    return None


def _plain(text: str) -> str:
    """A text that UTF-8 can hold and no reader cuts at a NUL."""
    return text[:_MAX_TEXT].replace("\0", " ").encode("utf-8", "replace").decode()


def _describe(checkpoint: Checkpoint, tensors: Sequence[MappedTensor]) -> Metadata:
    total, shared, expert, count = _parameters(tensors)
    origin = checkpoint.name if "/" in checkpoint.name else checkpoint.config.get("_name_or_path")
    settings = {"_name_or_path": origin} if isinstance(origin, str) else {}
    name = Path(checkpoint.name).name
    card = _card(checkpoint)
    # Only the last part of the path is read.
    metadata = Metadata.apply_metadata_heuristic(Metadata(), card, settings, Path(name), total)
    metadata.name = metadata.name or name
    metadata.size_label = metadata.size_label or size_label(total, shared, expert, count)
    return metadata


def _parameters(tensors: Sequence[MappedTensor]) -> tuple[int, int, int, int]:
    """All parameters, those outside of the experts, those of one expert, and how many experts there are."""
    shared = expert = counted = stacks = 0
    for tensor in tensors:
        if "_exps." in tensor.name and len(tensor.shape) >= 3:
            expert += tensor.n_elements // tensor.shape[-3]
            counted += tensor.shape[-3]
            stacks += 1
        else:
            shared += tensor.n_elements
    total = sum(tensor.n_elements for tensor in tensors)
    return total, shared, expert, counted // stacks if stacks else 0
