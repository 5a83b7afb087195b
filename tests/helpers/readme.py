"""The README's examples, by language."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
MODEL = "gemma-4-E2B-it-Q4_K_M.gguf"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
OWN = [line for line in COMMANDS if line.startswith("gemma4-gguf")]


def run_block(text: str) -> dict[str, Any]:
    scope: dict[str, Any] = {"__name__": "example"}
    exec(compile(text, "README.md", "exec"), scope)
    return scope
