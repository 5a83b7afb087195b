"""Everything about one device, in one command: build, doctor, tests, speed; one JSON, one row of a table.

    python tests/gpu/prove.py cuda OUT [--sources DIR] [--vocabulary ggml-vocab-gemma-4.gguf]

Builds llama.cpp's libraries if sources are given (`build.py`), otherwise takes those installed. With a
vocabulary, speeds are those of a full-size random E2B as Q4_K_M, otherwise of the bundled checkpoint. Each
step leaves OUT/<step>.json, so that a run that was stopped goes on where it was; OUT/result.json holds all
of them. A step that fails or crashes is recorded and does not keep the others from running. It takes about
twelve minutes on 16 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BENCH = ROOT / "tests/bench"
STEP_S = 420
SPEED = """
import json, sys
from gemma4_gguf import Session
from gemma4_gguf.doctor.device_process import measure_speed
found = {}
for device in ("cpu", sys.argv[2]):
    with Session(sys.argv[1], projector=None, device=device, n_ctx=2048) as session:
        measure_speed(session)
        speed = measure_speed(session)
        found[device] = {"read": speed.prompt, "written": speed.decode}
print(json.dumps(found))
"""

Row = dict[str, Any]


class Proof:
    """The steps, each run once.

    Args:
        device: a device of Session's, such as "cuda".
        out: folder of the results.
        sources: of llama-cpp-python; None takes what is installed.
        vocabulary: a GGUF file with Gemma 4's vocabulary; None takes the bundled checkpoint for speeds.
    """

    def __init__(self, device: str, out: Path, sources: Path | None, vocabulary: Path | None) -> None:
        self.device, self.out, self.sources, self.vocabulary = device, out, sources, vocabulary
        paths = [str(ROOT / "tests"), str(ROOT / "tests/helpers"), os.environ.get("PYTHONPATH", "")]
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(p for p in paths if p),
            "GEMMA4_GGUF_TEST_DEVICE": device,
            "GGML_NO_BACKTRACE": "1",
        }
        if sources is not None:
            # The bindings have a variable for each of the two.
            self.environment["LLAMA_CPP_LIB_PATH"] = self.environment["MTMD_CPP_LIB"] = str(out / "build/bin")

    def run(self) -> None:
        """Runs what has not run, then writes all of it."""
        steps: dict[str, Callable[[], Row]] = {
            "build": self._build,
            "devices": lambda: self._json([sys.executable, "-m", "gemma4_gguf", "devices", "--json"]),
            "doctor": lambda: self._json([sys.executable, "-m", "gemma4_gguf", "doctor", "--json"]),
            "tests": self._tests,
            "model": self._model,
            "speed": lambda: self._json([sys.executable, "-c", SPEED, self._gguf, self.device]),
            "decode": self._decode,
        }
        self.out.mkdir(parents=True, exist_ok=True)
        results = {}
        for name, step in steps.items():
            path = self.out / f"{name}.json"
            if not path.exists():
                start = time.monotonic()
                row = step()
                row["seconds"] = round(time.monotonic() - start, 1)
                path.write_text(json.dumps(row, indent=1), "utf-8")
                print(f"{name}: {row['seconds']} s, exit status {row.get('status', 0)}", flush=True)
            results[name] = json.loads(path.read_text("utf-8"))
        (self.out / "result.json").write_text(json.dumps(results, indent=1), "utf-8")
        print(_table(results, self.device))

    def _build(self) -> Row:
        if self.sources is None:
            return {"skipped": "the installed libraries are used"}
        return self._call(
            [sys.executable, str(HERE / "build.py"), self.device, str(self.sources), str(self.out / "build")]
        )

    def _tests(self) -> Row:
        report = self.out / "tests.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-n",
            "0",
            "-q",
            "-m",
            "gpu",
            str(HERE),
            "-p",
            "no:cacheprovider",
        ]
        row = self._call([*command, f"--junitxml={report}"])
        if report.exists():
            suite = next(ElementTree.parse(report).iter("testsuite"))
            row |= {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
        return row

    def _model(self) -> Row:
        """The model whose speed is told, beside OUT's results."""
        if self.vocabulary is None:
            checkpoint = ROOT / "gemma4_gguf/nano"
        else:
            checkpoint = self.out / "e2b"
            made = self._call(
                [sys.executable, str(BENCH / "make_e2b.py"), str(self.vocabulary), str(checkpoint)]
            )
            if made["status"]:
                return made
        command = [
            sys.executable,
            "-m",
            "gemma4_gguf",
            "convert",
            str(checkpoint),
            "-o",
            str(self.out / "gguf"),
        ]
        return self._call([*command, "--force"])

    @property
    def _gguf(self) -> str:
        return str(next((p for p in (self.out / "gguf").glob("*.gguf") if "mmproj" not in p.name), "none"))

    def _decode(self) -> Row:
        return self._json([sys.executable, str(BENCH / "decode.py"), self._gguf, "--device", self.device])

    def _json(self, command: list[str]) -> Row:
        row = self._call(command)
        try:
            row["result"] = json.loads(row["output"])
            del row["output"]
        except ValueError:
            pass
        return row

    def _call(self, command: list[str]) -> Row:
        try:
            done = subprocess.run(
                command,
                env=self.environment,
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=STEP_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            return {
                "status": "timeout",
                "output": str(error.stdout)[-20000:],
                "log": str(error.stderr)[-4000:],
            }
        return {"status": done.returncode, "output": done.stdout[-60000:], "log": done.stderr[-4000:]}


def _table(results: dict[str, Row], device: str) -> str:
    """One row in Markdown."""
    tests, decode = results["tests"], results["decode"].get("result", {})
    speed = results["speed"].get("result", {}).get(device, {})
    found = results["devices"].get("result", [])
    names = [d["description"] for d in found if d["backend"] == device] if isinstance(found, list) else []
    failed = tests.get("failures", 0) + tests.get("errors", 0)
    n_tests = tests.get("tests", 0) - tests.get("skipped", 0)
    cells = (
        ", ".join(names) or device,
        "right" if results["doctor"].get("status") == 0 else "wrong",
        f"{n_tests - failed} of {n_tests}",
        f"{speed.get('read', 0):,.0f}",
        f"{speed.get('written', 0):,.0f}",
        f"{decode.get('ratio', 0):.2f}",
    )
    head = (
        "| device | doctor | tests | tokens/s read | written | of a bare loop |\n|---|---|---|---|---|---|\n"
    )
    return head + "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("device", help="a device of Session's: cuda, vulkan, rocm, metal, cpu")
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--sources", type=Path, help="llama-cpp-python's sources, to build from")
    parser.add_argument("--vocabulary", type=Path, help="GGUF file with Gemma 4's vocabulary")
    options = parser.parse_args()
    Proof(options.device, options.out.resolve(), options.sources, options.vocabulary).run()
