"""Everything from nothing, in one command: words, ears, eyes, the whole model, written as a checkpoint.

``PYTHONPATH=tests python -m nano.make --out OUT --hours 3``. Stopped at any time (Ctrl-C), the same command
goes on where it was; finished stages are not done again. ``--start CHECKPOINT`` begins from its weights.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

#: Stage -> share of the time.
SHARES = {"ears": 0.08, "eyes": 0.37, "whole": 0.55}


def stages(options: argparse.Namespace) -> dict[str, list[str]]:
    """Name of each stage to its command, in order."""
    out, n = str(options.out), str(options.processes)
    start = ["--start", str(options.start)] if options.start is not None else []
    minutes = {name: str(options.hours * 60 * share) for name, share in SHARES.items()}
    towers = ["nano.towers", "--out", out, "--lr", "0.003", "--decay", "0.6", *start]
    return {
        "words": ["nano.speech", "--out", f"{out}/words.npz"],
        "ears": [*towers, "ears", "--minutes", minutes["ears"]],
        "eyes": [*towers, "eyes", "--minutes", minutes["eyes"], "--processes", n, "--text", "0.55"],
        "whole": [
            *["nano.train_cores", "--out", out, "--towers", out, "--frozen", "1", "--easy", "0"],
            *["--minutes", minutes["whole"], "--processes", n, *start],
        ],
    }


def main() -> int:
    """``python -m nano.make --out OUT``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=3.0, help="of training, on all processes together")
    parser.add_argument("--processes", type=int, default=2, help="one a core")
    parser.add_argument("--start", type=Path, help="checkpoint whose weights to begin from")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, command in stages(options).items():
        done = options.out / f"{name}.done"
        if done.exists():
            continue
        print(f"{name}: {' '.join(command)}", flush=True)
        process = subprocess.Popen([sys.executable, "-m", *command])
        stopped: list[int] = []  # signals

        def tell(
            received: int, _: object, child: subprocess.Popen[bytes] = process, got: list[int] = stopped
        ) -> None:
            got.append(received)
            child.send_signal(signal.SIGTERM)  # it saves and ends

        for ending in (signal.SIGINT, signal.SIGTERM):
            signal.signal(ending, tell)
        if process.wait() or stopped:
            return process.returncode or 130
        done.touch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
