"""Template files: which chat template of a checkpoint is embedded, and under which keys.

The places are searched as transformers' AutoProcessor does (processing_utils.py, tokenization_utils_base.py):
chat_template.jinja with the files of additional_chat_templates, the older chat_template.json,
processor_config.json, tokenizer_config.json. llama.cpp's converter takes the last one first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from gemma4_gguf.convert.checkpoint import Checkpoint
from gemma4_gguf.convert.config import ModelConfig
from gemma4_gguf.convert.json_section import shown
from gemma4_gguf.errors import CheckpointError
from gemma4_gguf.files.gguf_header import Field
from gemma4_gguf.templates import load as load_template

JINJA = "chat_template.jinja"
_FOLDERS = ("additional_chat_templates", "chat_templates")
_JSON = ("chat_template.json", "processor_config.json", "tokenizer_config.json")
_DEFAULT = "default"
_BOM = "\ufeff"


def chat_templates(checkpoint: Checkpoint, config: ModelConfig) -> dict[str, str]:
    """The checkpoint's own chat templates by name, or that of its size; drafters get none.

    Args:
        checkpoint: its directory holds them.
        config: of the checkpoint.

    Returns:
        "default" and others; the default is missing only where a drafter has none.

    Raises:
        CheckpointError: a template is no text.
    """
    found: dict[str, str] = {}
    for named in _places(checkpoint):
        # The first place that has any wins; a default it lacks may come from a later one.
        if not found:
            found = named
        elif _DEFAULT not in found and _DEFAULT in named:
            found[_DEFAULT] = named[_DEFAULT]
    if _DEFAULT not in found and not config.assistant:
        found[_DEFAULT] = load_template("small" if config.text.ple else "large")
    return found


def template_fields(templates: dict[str, str]) -> list[Field]:
    """The metadata of chat templates, in llama.cpp's order.

    Args:
        templates: by name.
    """
    named = {re.sub(r"[^A-Za-z0-9]", "_", name): text for name, text in templates.items() if name}
    default = named.pop(_DEFAULT, None)
    fields = [Field(f"tokenizer.chat_template.{name}", text, "STRING") for name, text in named.items()]
    if named:
        fields.append(Field("tokenizer.chat_templates", sorted(named), "ARRAY", "STRING"))
    if default is not None:
        fields.append(Field("tokenizer.chat_template", default, "STRING"))
    return fields


def _places(checkpoint: Checkpoint) -> Iterator[dict[str, str]]:
    yield _files(checkpoint)
    for file in _JSON:
        value = (checkpoint.json(file) or {}).get("chat_template")
        yield _by_name(value, f"{checkpoint.directory / file}: chat_template")


def _files(checkpoint: Checkpoint) -> dict[str, str]:
    named: dict[str, str] = {}
    default = checkpoint.text(JINJA)
    if default is not None:
        named[_DEFAULT] = _text(default, str(checkpoint.directory / JINJA))
    for folder in _FOLDERS:
        for path in sorted((checkpoint.directory / folder).glob("*.jinja")):
            text = checkpoint.text(f"{folder}/{path.name}")
            if text is not None and not path.name.startswith("."):
                named.setdefault(path.stem, _text(text, str(path)))
    return named


def _by_name(value: Any, where: str) -> dict[str, str]:
    """All spellings of the key: one text, a list of {"name", "template"}, or an object of texts."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {_DEFAULT: _text(value, where)}
    if isinstance(value, dict):
        return {name: _text(text, where) for name, text in value.items()}
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        return {str(one.get("name")): _text(one.get("template"), where) for one in value}
    raise CheckpointError(f"{where} is {shown(value)}; expected a text, or texts with names.")


def _text(text: Any, where: str) -> str:
    """A template without its byte order mark, which would be written before <bos>."""
    if not isinstance(text, str):
        raise CheckpointError(f"{where} is no text but {shown(text)}. Save the tokenizer again.")
    text = text.removeprefix(_BOM)
    if "\0" in text or not _is_unicode(text):
        raise CheckpointError(f"{where} holds a NUL character or half of a surrogate pair. Save it again.")
    return text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
