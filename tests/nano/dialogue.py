"""A training or evaluation example and its text, as the template of the small Gemma 4 family writes it.

A :class:`Dialogue` holds OpenAI-shaped messages whose media are plain arrays, so the same example can be
trained on, asked through transformers and asked through ``Session``. The text written here is the small
template's (``templates/gemma4-small.jinja``; a test holds the two equal), in plain Python because the
generators write thousands of dialogues a second.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

QUOTE = '<|"|>'
IGNORE = -100  # the label of a token that is not learned


@dataclass
class Dialogue:
    """One conversation; its last message is the assistant's and is the answer asked for.

    Attributes:
        task: name of the task, for the evaluation's table.
        messages: OpenAI-shaped; user content is a string or a list of parts whose ``image`` is uint8
            ``[height, width, 3]``, ``audio`` float32 ``[samples]`` at 16 kHz, ``video`` a list of such
            images with ``seconds``. Assistant messages may carry ``thinking`` and ``tool_calls``.
        tools: OpenAI tool declarations.
        thinking: whether the thinking switch of the system turn is on.
        image_tokens: budget of each picture; frames of a clip always take 70.
        truth: what the evaluation compares with.
    """

    task: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = field(default_factory=list)
    thinking: bool = False
    image_tokens: int = 70
    truth: dict[str, Any] = field(default_factory=dict)


@dataclass
class Media:
    """The media of one dialogue in the order of their placeholders."""

    images: list[np.ndarray] = field(default_factory=list)  # [height, width, 3] uint8
    image_tokens: list[int] = field(default_factory=list)
    sounds: list[np.ndarray] = field(default_factory=list)  # [samples] float32


def timestamp(seconds: float) -> str:
    """``mm:ss`` of a frame, as the video processor writes it."""
    return f"{int(seconds // 60):02d}:{int(seconds % 60):02d}"


def argument(value: Any) -> str:
    """A value in the native call format: strings between ``<|"|>``, keys sorted."""
    if isinstance(value, str):
        return f"{QUOTE}{value}{QUOTE}"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{argument(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(argument(item) for item in value) + "]"
    return json.dumps(value)


def call_text(name: str, arguments: dict[str, Any]) -> str:
    """One tool call as the model writes it."""
    return f"<|tool_call>call:{name}{argument(arguments)}<tool_call|>"


def _schema(schema: dict[str, Any]) -> str:
    """A parameter's schema: description, enum, items and properties before the type."""
    parts = []
    if "description" in schema:
        parts.append(f"description:{argument(schema['description'])}")
    if "enum" in schema:
        parts.append(f"enum:{argument(schema['enum'])}")
    if "items" in schema:
        parts.append(f"items:{_schema(schema['items'])}")
    if schema.get("properties"):
        inner = schema["properties"]
        parts.append("properties:{" + ",".join(f"{key}:{_schema(inner[key])}" for key in sorted(inner)) + "}")
    if schema.get("required"):
        parts.append(f"required:{argument(schema['required'])}")
    parts.append(f"type:{argument(schema['type'].upper())}")
    return "{" + ",".join(parts) + "}"


def declaration_text(tool: dict[str, Any]) -> str:
    """One tool's declaration in the system turn."""
    function = tool["function"]
    described = f"description:{argument(function['description'])}"
    parameters = _schema({"type": "object", **function["parameters"]})
    return f"<|tool>declaration:{function['name']}{{{described},parameters:{parameters}}}<tool|>"


def _user_text(content: Any, media: Media, image_tokens: int) -> str:
    if isinstance(content, str):
        return content.strip()
    pieces = []
    for part in content:
        if part["type"] == "image":
            media.images.append(part["image"])
            media.image_tokens.append(image_tokens)
            pieces.append("<|image|>")
        elif part["type"] == "audio":
            media.sounds.append(part["audio"])
            pieces.append("<|audio|>")
        elif part["type"] == "video":
            media.images.extend(part["video"])
            media.image_tokens.extend([70] * len(part["video"]))
            pieces.append(" ".join(f"{timestamp(at)} <|image|>" for at in part["seconds"]))
        else:
            pieces.append(part["text"].strip())
    return "".join(pieces)


def thought_text(thought: str) -> str:
    """A thought between its channel markers."""
    return f"<|channel>thought\n{thought}\n<channel|>"


def render(dialogue: Dialogue, prompt_only: bool = False) -> tuple[str, Media]:
    """The whole conversation as text, with one placeholder per picture, frame and sound.

    Args:
        dialogue: the conversation.
        prompt_only: stop where the last assistant message begins.

    Returns:
        The text, from ``<bos>``, and the media in order.
    """
    media = Media()
    messages = dialogue.messages
    out = ["<bos>"]
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    if system or dialogue.tools or dialogue.thinking:
        think = "<|think|>\n" if dialogue.thinking else ""
        tools = "".join(declaration_text(tool) for tool in dialogue.tools)
        out.append(f"<|turn>system\n{think}{system}{tools}<turn|>\n")
    last_user = max(index for index, message in enumerate(messages) if message["role"] == "user")
    open_turn = False
    for index, message in enumerate(messages):
        role = message["role"]
        if role == "system":
            continue
        if role == "user":
            out.append(
                f"<|turn>user\n{_user_text(message['content'], media, dialogue.image_tokens)}<turn|>\n"
            )
            continue
        if role == "tool":
            out.append(f"<|tool_response>response:{message['name']}{{value:{argument(message['content'])}}}")
            out.append("<tool_response|>")
            continue
        if not open_turn:
            out.append("<|turn>model\n")
        if prompt_only and index == len(messages) - 1:
            break
        # Thoughts of finished turns are dropped from the history, as the template does.
        if message.get("thinking") and index > last_user:
            out.append(thought_text(message["thinking"]))
        calls = message.get("tool_calls", [])
        out.extend(call_text(call["name"], call["arguments"]) for call in calls)
        open_turn = bool(calls)
        if calls and index == len(messages) - 1:
            out.append("<|tool_response>")  # what the model writes to hand over
        elif not calls:
            out.append(f"{message['content']}<turn|>\n")
    return "".join(out), media


def labels_of(ids: Sequence[int], control: dict[str, int], model_word: int) -> list[int]:
    """Which tokens are learned: what the model itself writes, its turn ends and its hand-overs.

    Args:
        ids: token ids of a whole conversation.
        control: ids of the control tokens by their text.
        model_word: id of the token ``model`` after ``<|turn>``.

    Returns:
        The ids, with :data:`IGNORE` in place of what others write.
    """
    labels = [IGNORE] * len(ids)
    turn, end = control["<|turn>"], control["<turn|>"]
    result, result_end = control["<|tool_response>"], control["<tool_response|>"]
    learning, start = False, -1
    for index, token in enumerate(ids):
        if token == turn and ids[index + 1 : index + 2] == [model_word]:
            start = index + 3  # after "<|turn>model\n"
        if index == start:
            learning = True
        # A second result follows the first without the model having asked for it again.
        second_result = token == result and ids[index - 1] == result_end
        if learning and not second_result:
            labels[index] = token
        if token in (result, end):
            learning = False
        elif token == result_end:
            learning = True
    return labels
