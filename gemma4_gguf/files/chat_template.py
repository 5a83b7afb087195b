"""Chat template of a file: which family it belongs to, told by what it writes.

A template is the only part of a model that anybody can exchange with a text editor, and one of another family
still renders: the model then reads turns it has never seen and answers rubbish.
"""

from __future__ import annotations

import re

from gemma4_gguf.files.file_report import Template
from gemma4_gguf.special_tokens import CALL_OPEN, CHANNEL_CLOSE, CHANNEL_OPEN, TURN_OPEN

_TOOL_CALL = f"{CALL_OPEN}call:"
_CURRENT_TEMPLATE = "{#- OpenAI Chat Completions:"
_EMPTY_THOUGHT = re.compile(rf"{re.escape(CHANNEL_OPEN)}thought(\\n|\n){re.escape(CHANNEL_CLOSE)}")
# What opens a turn elsewhere, and whose it is.
_OTHERS = {
    "<start_of_turn>": "that of Gemma 1 to 3",
    "<|im_start|>": "ChatML",
    "<|start_header_id|>": "Llama 3's",
    "[INST]": "Mistral's",
    "<|START_OF_TURN_TOKEN|>": "Command R's",
    "<|user|>": "one with <|user|>",
    "### Instruction": "Alpaca's",
}


def describe_template(text: str) -> Template:
    """Which Gemma 4 template a text is.

    Args:
        text: Jinja source; empty without one.

    Returns:
        Its family and age.
    """
    if not text:
        return Template("none", False)
    if _TOOL_CALL not in text:
        return Template("other", False, foreign_template(text))
    return Template("large" if _EMPTY_THOUGHT.search(text) else "small", _CURRENT_TEMPLATE not in text)


def foreign_template(text: str | None) -> str | None:
    """What to say of a template that cannot be Gemma 4's.

    Args:
        text: Jinja source; None or empty without one.

    Returns:
        A sentence; None for one that opens turns as Gemma 4 does, or where there is none.
    """
    if not text or TURN_OPEN in text:
        return None
    whose = next((whose for mark, whose in _OTHERS.items() if mark in text), "of an unknown family")
    return (
        f"The chat template is {whose}: it never writes {TURN_OPEN}, with which all turns of Gemma 4 begin, "
        "so the model will not understand a conversation unless it was trained with this template. "
        "Gemma 4's own is gemma4_gguf.templates.load(...), or chat_template.jinja of the published model."
    )
