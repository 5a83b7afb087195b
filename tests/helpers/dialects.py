"""One conversation as several APIs write it."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

from PIL import Image as PILImage
from pydantic import BaseModel

from gemma4_gguf.types import Image

_stream = io.BytesIO()
PILImage.new("RGB", (48, 48), "red").save(_stream, "PNG")
PNG = _stream.getvalue()
B64 = base64.b64encode(PNG).decode()
ADDRESS = f"data:image/png;base64,{B64}"
ARGUMENTS = {"place": "Oslo", "days": 2}
RESULT = {"sky": "rain"}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": json.dumps(ARGUMENTS)}}
SYSTEM = {"role": "system", "content": "Be brief."}


class Said(BaseModel):
    """As the message of OpenAI's package: a Pydantic model with much that is None."""

    role: str
    content: str | None = None
    refusal: str | None = None
    audio: dict[str, Any] | None = None
    function_call: dict[str, Any] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    reasoning: str | None = None


DIALECTS: dict[str, list[Any]] = {
    "OpenAI": [
        SYSTEM,
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look:"},
                {"type": "image_url", "image_url": {"url": ADDRESS}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "Hm.",
            "tool_calls": [CALL],
            "refusal": None,
            "annotations": [],
        },
        {"role": "tool", "tool_call_id": "c1", "content": json.dumps(RESULT)},
        {"role": "assistant", "content": "Rain."},
    ],
    "OpenRouter and vLLM": [
        SYSTEM,
        {
            "role": "user",
            "content": [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": ADDRESS}],
        },
        {
            "role": "assistant",
            "content": None,
            "reasoning": "Hm.",
            "reasoning_content": "Hm.",
            "reasoning_details": [{"type": "reasoning.text", "text": "Hm."}],
            "tool_calls": [CALL],
        },
        {
            "role": "tool",
            "tool_call_id": "c1",
            "name": "weather",
            "content": [{"type": "text", "text": json.dumps(RESULT)}],
        },
        {"role": "assistant", "content": "Rain.", "reasoning": None},
    ],
    "objects": [
        SYSTEM,
        {"role": "user", "content": ["Look:", Image(PNG)]},
        Said(role="assistant", tool_calls=[CALL], reasoning="Hm."),
        {"role": "tool", "tool_call_id": "c1", "content": RESULT},
        Said(role="assistant", content="Rain."),
    ],
    "Anthropic": [
        SYSTEM,
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look:"},
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": B64},
                    "cache_control": {"type": "ephemeral"},
                },
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                {"type": "tool_use", "id": "c1", "name": "weather", "input": ARGUMENTS},
            ],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "c1", "content": json.dumps(RESULT)}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "Rain.", "citations": None}]},
    ],
    "Gemini": [
        SYSTEM,
        {
            "role": "user",
            "parts": [{"text": "Look:"}, {"inlineData": {"mimeType": "image/png", "data": B64}}],
        },
        {
            "role": "model",
            "parts": [
                {"text": "Hm.", "thought": True},
                {"functionCall": {"id": "c1", "name": "weather", "args": ARGUMENTS}, "thoughtSignature": "s"},
            ],
        },
        {
            "role": "user",
            "parts": [{"functionResponse": {"id": "c1", "name": "weather", "response": RESULT}}],
        },
        {"role": "model", "parts": [{"text": "Rain."}]},
    ],
    "Ollama": [
        SYSTEM,
        {"role": "user", "content": "Look:", "images": [B64]},
        {
            "role": "assistant",
            "content": "",
            "thinking": "Hm.",
            "tool_calls": [{"function": {"index": 0, "name": "weather", "arguments": ARGUMENTS}}],
        },
        {"role": "tool", "tool_name": "weather", "content": json.dumps(RESULT)},
        {"role": "assistant", "content": "Rain.", "done": True},
    ],
    "Responses": [
        {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Be brief."}]},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Look:"},
                {"type": "input_image", "image_url": ADDRESS, "detail": "auto"},
            ],
        },
        {
            "type": "reasoning",
            "id": "r1",
            "summary": [{"type": "summary_text", "text": "Hm."}],
            "encrypted_content": "x",
        },
        {
            "type": "function_call",
            "id": "f1",
            "call_id": "c1",
            "name": "weather",
            "arguments": json.dumps(ARGUMENTS),
            "status": "completed",
        },
        {"type": "function_call_output", "call_id": "c1", "output": json.dumps(RESULT)},
        {
            "type": "message",
            "id": "m1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Rain.", "annotations": []}],
        },
    ],
    "legacy": [
        SYSTEM,
        {"role": "user", "content": [{"type": "text", "text": "Look:"}, {"type": "image", "image": PNG}]},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "Hm.",
            "function_call": {"name": "weather", "arguments": json.dumps(ARGUMENTS)},
        },
        {"role": "function", "name": "weather", "content": json.dumps(RESULT)},
        {"role": "assistant", "content": "Rain."},
    ],
}
