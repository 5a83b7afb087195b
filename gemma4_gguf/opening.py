"""What a session is opened from: files found or downloaded, the projector of the model, its template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gemma4_gguf.engine.checks import ModelFacts
from gemma4_gguf.engine.pairing import ProjectorFacts, check_pair, check_projector, find_projector
from gemma4_gguf.hub import HubId, locate, resolve_gguf
from gemma4_gguf.prompt import Render
from gemma4_gguf.requests import Message
from gemma4_gguf.templates import Renderer, load, words_before_calls


def find_files(model: str | Path, projector: str | Path | None) -> tuple[Path, str | Path | None]:
    """Local files; what is on the hub is downloaded, its projector with it."""
    found = locate(model)
    if not isinstance(found, HubId):
        return found, projector
    files = resolve_gguf(str(model))
    if projector == "auto" and files.projector is not None:
        projector = files.projector
    return files.model, projector


def paired_projector(model: ModelFacts, projector: str | Path | None) -> ProjectorFacts | None:
    if projector is None:
        return None
    if projector == "auto":
        return find_projector(model)
    facts = check_projector(projector)
    check_pair(model, facts)
    return facts


def renderer(facts: ModelFacts) -> Render:
    """The model's own template, else the one of its family; compiled when the first conversation comes."""

    def render(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None, thinking: bool) -> str:
        template = Renderer(facts.chat_template or load(facts.family_size))
        return template.render(words_before_calls(messages), tools, enable_thinking=thinking)

    return render
