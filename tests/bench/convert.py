"""Time the conversion of one checkpoint against upstream's two steps, and check that the files are the same.

    python tests/bench/convert.py CHECKPOINT --llama-cpp SRC --upstream-python PYTHON

Upstream converts to BF16 (SRC/convert_hf_to_gguf.py, run by PYTHON, which needs torch and transformers) and
quantizes that file (llama_model_quantize). Each step runs as a child of its own; wall time and peak resident
memory are the kernel's. The checkpoint is read once before each side, so both find it in the page cache as
far as it fits. Ratios go to standard error as a table, everything to standard output as JSON. Only the model
is compared, without the projector. Make sure that nothing else is running.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gemma4_gguf.files.gguf_reader import GGUFFile, TensorInfo, open_gguf, read_rows
from gemma4_gguf.files.quant_types import QUANT_TYPES

OURS = """import sys
from gemma4_gguf.convert import convert_checkpoint
source, out, quant, threads = sys.argv[1:]
convert_checkpoint(source, out, quant, None, name="ours", threads=int(threads))
"""
QUANTIZE = """
import ctypes, sys
from llama_cpp import llama_cpp as llama
log = llama.llama_log_callback(lambda *arguments: None)
llama.llama_log_set(log, None)
params = llama.llama_model_quantize_default_params()
params.ftype, params.nthread = int(sys.argv[3]), int(sys.argv[4])
sys.exit(llama.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(params)))
"""


@dataclass(frozen=True)
class Step:
    """One child process."""

    name: str
    wall_s: float
    cpu_s: float
    peak_rss_gb: float


def main() -> None:
    options = _arguments()
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="bench-convert-") as scratch:
        runs = [_run_pair(options, Path(scratch), i) for i in range(options.repeats)]
        same = _compare(Path(scratch) / f"ours-{options.quant}.gguf", Path(scratch) / "upstream.gguf")
        n_bytes = (Path(scratch) / "upstream.gguf").stat().st_size
    ours = [run["ours"] for run in runs]
    theirs = [run["upstream"] for run in runs]
    result = {
        "checkpoint": options.checkpoint.name,
        "quant": options.quant,
        "threads": options.threads,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "versions": {name: version(name) for name in ("gemma4-gguf", "llama-cpp-python", "numpy")},
        "file_bytes": n_bytes,
        "ours": [asdict(step) for step in ours],
        "upstream": [[asdict(step) for step in steps] for steps in theirs],
        "wall_ratio": _median(s.wall_s for s in ours)
        / _median(sum(s.wall_s for s in steps) for steps in theirs),
        "rss_ratio": max(s.peak_rss_gb for s in ours) / max(s.peak_rss_gb for steps in theirs for s in steps),
        "same": same,
    }
    print(json.dumps(result, indent=2))
    _print_table(ours, theirs, result)
    sys.exit(0 if all(same.values()) else 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument(
        "--llama-cpp", type=Path, required=True, metavar="SRC", help="llama.cpp's source tree"
    )
    parser.add_argument("--upstream-python", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--quant", default="Q4_K_M", choices=sorted(QUANT_TYPES))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--scratch", type=Path, help="where to write; needs room for a BF16 and two results")
    return parser.parse_args()


def _run_pair(options: argparse.Namespace, scratch: Path, index: int) -> dict[str, Any]:
    """Both sides once; which one goes first alternates."""
    sides = {"ours": lambda: _ours(options, scratch), "upstream": lambda: _upstream(options, scratch)}
    order = ("ours", "upstream") if index % 2 == 0 else ("upstream", "ours")
    done = {}
    for side in order:
        _read_once(options.checkpoint)
        done[side] = sides[side]()
    return done


def _ours(options: argparse.Namespace, scratch: Path) -> Step:
    for path in scratch.glob("ours-*.gguf"):
        path.unlink()
    arguments = [str(options.checkpoint), str(scratch), options.quant, str(options.threads)]
    return _child("one pass", [sys.executable, "-c", OURS, *arguments])


def _upstream(options: argparse.Namespace, scratch: Path) -> list[Step]:
    kind = QUANT_TYPES[options.quant]
    result, bf16 = scratch / "upstream.gguf", scratch / "upstream-bf16.gguf"
    script = str(options.llama_cpp / "convert_hf_to_gguf.py")
    outtype = options.quant.lower() if kind.by_converter else "bf16"
    first = result if kind.by_converter else bf16
    command = [
        options.upstream_python,
        script,
        str(options.checkpoint),
        "--outtype",
        outtype,
        "--outfile",
        str(first),
    ]
    steps = [_child(f"convert to {outtype}", command)]
    if not kind.by_converter:
        arguments = [str(bf16), str(result), str(kind.file_type), str(options.threads)]
        steps.append(_child("quantize", [sys.executable, "-c", QUANTIZE, *arguments]))
        bf16.unlink()
    return steps


def _child(name: str, command: list[str]) -> Step:
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read() if process.stderr else b""
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        sys.exit(f"{name} failed:\n{errors.decode(errors='replace')[-3000:]}")
    unit = 1e9 if sys.platform == "darwin" else 1e6  # bytes there, kilobytes elsewhere
    step = Step(name, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit)
    print(f"{name}: {wall:.1f} s, {step.peak_rss_gb:.2f} GB", file=sys.stderr)
    return step


def _read_once(checkpoint: Path) -> None:
    for path in sorted(checkpoint.glob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def _compare(ours: Path, theirs: Path) -> dict[str, bool]:
    """What is the same: tensors (names, order, types, every byte), and metadata outside general.*."""
    a, b = open_gguf(ours), open_gguf(theirs)
    return {
        "tensors": list(_layout(a)) == list(_layout(b)) and all(_same_data(a, b, name) for name in b.tensors),
        "metadata": _metadata(a) == _metadata(b),
    }


def _layout(file: GGUFFile) -> Iterator[tuple[str, tuple[int, ...], str]]:
    for info in file.tensors.values():
        yield info.name, info.shape, info.type


def _same_data(a: GGUFFile, b: GGUFFile, name: str) -> bool:
    first: TensorInfo = a.tensors[name]
    step = max(1, (1 << 24) // first.row_length)
    return all(
        bool((read_rows(a, first, i, min(i + step, first.n_rows)) == _rows(b, name, i, step)).all())
        for i in range(0, first.n_rows, step)
    )


def _rows(file: GGUFFile, name: str, start: int, step: int) -> Any:
    info = file.tensors[name]
    return read_rows(file, info, start, min(start + step, info.n_rows))


def _metadata(file: GGUFFile) -> dict[str, bytes]:
    kept = ("general.architecture", "general.type", "general.file_type", "general.quantization_version")
    keys = [key for key in file.metadata if key in kept or not key.startswith("general.")]
    return {key: file.metadata.raw(key) for key in keys}


def _median(values: Any) -> float:
    return float(statistics.median(values))


def _print_table(ours: list[Step], theirs: list[list[Step]], result: dict[str, Any]) -> None:
    rows = [("ours: one pass", _median(s.wall_s for s in ours), max(s.peak_rss_gb for s in ours))]
    for i, step in enumerate(theirs[0]):
        wall = _median(steps[i].wall_s for steps in theirs)
        rows.append((f"upstream: {step.name}", wall, max(steps[i].peak_rss_gb for steps in theirs)))
    for name, wall, rss in rows:
        print(f"{name:30} {wall:8.1f} s {rss:8.2f} GB", file=sys.stderr)
    print(
        f"wall {result['wall_ratio']:.2f}x, memory {result['rss_ratio']:.2f}x, same: {result['same']}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
