"""What type checkers say of users' scripts, against the installed package.

    python tests/user_scripts/check.py

right.py must be without a fault, and in wrong.py each line marked `# wrong` must have one, and no other line.
Both mypy --strict and pyright are asked; neither may see this checkout, so that what they judge is what users
get.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCRIPTS = ("right.py", "wrong.py")


def mypy(folder: Path) -> dict[str, set[int]]:
    """Lines that mypy --strict finds fault with, by script."""
    options = ["--strict", "--no-error-summary", "--cache-dir", str(folder / "cache")]
    command = [sys.executable, "-m", "mypy", *options, *SCRIPTS]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    found = re.findall(r"^(\w+\.py):(\d+): error:", done.stdout, re.M)
    if done.returncode not in (0, 1) or done.stderr:
        raise SystemExit(f"mypy failed: {done.stdout}{done.stderr}")
    return {script: {int(line) for name, line in found if name == script} for script in SCRIPTS}


def pyright(folder: Path) -> dict[str, set[int]]:
    """The same of pyright, which looks only where it has a project of its own."""
    (folder / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "standard"}))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, *SCRIPTS]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    try:
        told = json.loads(done.stdout[done.stdout.index("{") :])["generalDiagnostics"]
    except (ValueError, KeyError) as error:
        raise SystemExit(f"pyright failed: {done.stdout}{done.stderr}") from error
    faults = [row for row in told if row["severity"] == "error"]
    return {
        script: {row["range"]["start"]["line"] + 1 for row in faults if row["file"].endswith(script)}
        for script in SCRIPTS
    }


def marked(script: Path) -> set[int]:
    """Numbers of the lines that are marked as wrong."""
    lines = script.read_text("utf-8").splitlines()
    return {number for number, line in enumerate(lines, start=1) if line.endswith("# wrong")}


def main() -> int:
    """Says where a checker and the marks differ."""
    checkers: dict[str, Callable[[Path], dict[str, set[int]]]] = {"mypy": mypy, "pyright": pyright}
    differing = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for script in SCRIPTS:
            shutil.copyfile(HERE / script, folder / script)
        for checker, ask in checkers.items():
            for script, found in ask(folder).items():
                wanted = marked(HERE / script)
                print(f"{checker:8} {script:9} {len(found)} of {len(wanted)} mistakes")
                for line in sorted(wanted ^ found):
                    differing += 1
                    print(
                        f"  line {line}: {'not seen' if line in wanted else 'is right, but found fault with'}"
                    )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
