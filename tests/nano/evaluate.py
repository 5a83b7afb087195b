"""Measures a nano checkpoint on fresh samples of every task.

``PYTHONPATH=tests python -m nano.evaluate CHECKPOINT --words words.npz`` asks through our own Q4_K_M
conversion and ``Session``; ``--engine transformers`` asks transformers in float32. The samples follow from
``--seed`` alone and answers are greedy, so the same command gives the same figures. ``--json FILE`` writes
them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from nano.engines import Converted, NotTakenError, Transformers
from nano.score import TARGETS, Answer, expected_answer, score
from nano.speech import Voices
from nano.tasks import EVALUATION, evaluation_set


def shown(answer: Answer) -> str:
    """An answer in one line."""
    thought = f"({answer.thinking}) " if answer.thinking else ""
    return (thought + answer.text + "".join(answer.calls)).replace("\n", " / ")


def run(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Asks, scores and prints task after task; returns the figures by task."""
    voices = Voices.load(options.words, held_out=True)
    engine: Any
    if options.engine == "session":
        engine = Converted(options.checkpoint, options.quant)
    else:
        engine = Transformers(options.checkpoint, options.device, options.at_once)
    report = {}
    for task in options.tasks or EVALUATION:
        begin = time.monotonic()
        dialogues = evaluation_set(task, options.count, options.seed, voices)
        try:
            answers = engine.answers(dialogues)
        except NotTakenError as error:  # what the session does not take is told, and the other tasks go on
            print(f"{task:13} not asked: {error}", flush=True)
            continue
        report[task] = figures = score(task, answers, dialogues)
        targets = TARGETS.get(task, {})
        marks = [
            f"{name} {value:.3f}"
            + ("" if name not in targets else " ok" if value >= targets[name] else " LOW")
            for name, value in figures.items()
        ]
        print(f"{task:13} {', '.join(marks)}   [{time.monotonic() - begin:.0f} s]", flush=True)
        for answer, dialogue in list(zip(answers, dialogues, strict=True))[: options.show]:
            print(f"    wanted {shown(expected_answer(dialogue))}\n    got    {shown(answer)}", flush=True)
    return report


def main() -> None:
    """``python -m nano.evaluate CHECKPOINT --words words.npz``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--words", type=Path, required=True, help="cache of nano.speech")
    parser.add_argument("--engine", choices=("session", "transformers"), default="session")
    parser.add_argument("--quant", default="Q4_K_M", help="type of the converted model")
    parser.add_argument("--count", type=int, default=500, help="samples of each task")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--tasks", nargs="*", choices=list(EVALUATION))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--at-once", type=int, default=20, help="dialogues of one pass in transformers")
    parser.add_argument("--show", type=int, default=0, help="answers to print of each task")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = run(options)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
