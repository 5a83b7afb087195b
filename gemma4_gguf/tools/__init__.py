"""Tools a model may call: functions, Pydantic types or dicts → declarations, calls → results."""

from __future__ import annotations

from gemma4_gguf.tools.declare import Tool, as_tools
from gemma4_gguf.tools.results import ToolResult
from gemma4_gguf.tools.run import run_call

__all__ = ["Tool", "ToolResult", "as_tools", "run_call"]
