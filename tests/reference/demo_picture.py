"""Draws what `gemma4-gguf demo` looks like in a terminal: the picture of the README.

    python tests/reference/demo_picture.py .github/demo.svg

Runs the demo in a terminal of its own, 100 columns wide with all colours, and keeps what it wrote. For Linux
and macOS.
"""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 100
_CURSOR = re.compile(r"\x1b\[(?:\?\d+[hl]|\d*[ABCDGJK])")  # what progress bars move about


def main() -> None:
    path = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        text = record(["demo", "--keep", "demo"], Path(folder))
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ gemma4-gguf demo --keep demo", "bold"))
    console.print(Text.from_ansi(text))
    path.write_text(console.export_svg(title="gemma4-gguf demo", clear=False), encoding="utf-8")


def record(arguments: list[str], folder: Path) -> str:
    """What a command of ours writes to a terminal.

    Args:
        arguments: of gemma4-gguf.
        folder: where it runs.

    Returns:
        Text with ANSI colours, without progress bars.
    """
    variables = {"COLUMNS": str(COLUMNS), "LINES": "50", "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "gemma4_gguf", *arguments]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=inherited | variables
    )
    os.close(theirs)
    chunks: list[bytes] = []
    with contextlib.suppress(OSError):  # how a terminal ends whose process is gone
        while chunk := os.read(ours, 1 << 16):
            chunks.append(chunk)
    if status := process.wait():
        raise SystemExit(f"The demo ended with status {status}.")
    lines = b"".join(chunks).decode("utf-8").replace("\r\n", "\n").split("\n")
    shown = [_CURSOR.sub("", line.rsplit("\r", 1)[-1]) for line in lines]
    return "\n".join(line for line in shown if "━" not in line).rstrip()


if __name__ == "__main__":
    main()
