"""Record what llama.cpp's converter writes for the tiny checkpoints: tests/data/reference/upstream_*.json.

    pip install -e '.[reference]'
    export GEMMA4_GGUF_LLAMA_CPP_SRC=path/to/llama.cpp
    PYTHONPATH=tests python tests/reference/upstream.py [directory]

The source tree is the one vendored in the llama-cpp-python sdist (vendor/llama.cpp). One child converts
all of it: it imports upstream's own copy of the gguf package, and torch once for all files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import tiny
from gguf_description import describe

DATA = Path(__file__).resolve().parent.parent / "data" / "reference"
SOURCE_VARIABLE = "GEMMA4_GGUF_LLAMA_CPP_SRC"

OUTTYPES = ("f32", "f16", "bf16", "q8_0")

# Upstream reads the config through transformers, which drops the MoE keys of a unified text model unless they
# stand in the file; and it cannot convert same_head_dim at all (no head size for the full layers).
OPTIONS: dict[str, dict[str, Any]] = {
    "e2b": {},
    "e4b": {},
    "26b": {},
    "31b": {},
    "12b": {"spelling": "global"},
    "assistant": {},
    "assistant_unified": {"spelling": "global"},
    "e2b_text": {"chat_template": "{{ bos_token }}{{ messages[0].content }}"},
}
WITH_PROJECTOR = ("e2b", "e4b", "26b", "31b", "12b")


# Runs upstream's script once per line of arguments, as if each were its own command.
DRIVER = """
import json, logging, pathlib, runpy, sys
source = sys.argv[1]
sys.path.insert(0, source)
logging.disable(logging.WARNING)
for arguments in json.load(sys.stdin):
    sys.argv = ["convert_hf_to_gguf.py", *arguments]
    runpy.run_path(str(pathlib.Path(source) / "convert_hf_to_gguf.py"), run_name="__main__")
"""


def record_all(out: Path, scratch: Path, members: tuple[str, ...] = tuple(OPTIONS)) -> None:
    """Convert members with upstream's converter and write one JSON per member into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    records: dict[str, dict[str, Any]] = {}
    jobs: dict[tuple[str, str], list[str]] = {}
    for member in members:
        directory = tiny.write_checkpoint(member, scratch / f"tiny-{member}", **OPTIONS[member])
        records[member] = {"digest": tiny.checkpoint_digest(directory), "options": OPTIONS[member]}
        for outtype in OUTTYPES:
            for kind in ("model", "projector")[: 2 if member in WITH_PROJECTOR else 1]:
                outfile = str(scratch / f"{member}-{kind}-{outtype}.gguf")
                flags = ["--outtype", outtype, *(["--mmproj"] if kind == "projector" else [])]
                jobs[member, f"{kind}-{outtype}"] = [str(directory), "--outfile", outfile, *flags]
    convert(list(jobs.values()))
    for (member, name), arguments in jobs.items():
        records[member][name] = describe(Path(arguments[2]))
    for member, record in records.items():
        write_record(out / f"upstream_{member}.json", record)


def convert(jobs: list[list[str]]) -> None:
    """Run upstream's converter once per list of command-line arguments.

    Raises:
        SystemExit: the variable that names the source tree is not set.
        subprocess.CalledProcessError: a conversion failed.
    """
    source = os.environ.get(SOURCE_VARIABLE)
    if not source:
        raise SystemExit(f"Set {SOURCE_VARIABLE} to a llama.cpp source tree.")
    subprocess.run([sys.executable, "-c", DRIVER, source], input=json.dumps(jobs), text=True, check=True)


def write_record(path: Path, record: dict[str, Any]) -> None:
    """One line per key and tensor, so that a change of the record can be read in a diff."""
    lines = [f'"digest": {json.dumps(record["digest"])}', f'"options": {json.dumps(record["options"])}']
    for name, described in record.items():
        if name in ("digest", "options"):
            continue
        parts = []
        for part, entries in described.items():
            rows = ",\n".join(f"   {json.dumps(k)}: {json.dumps(v)}" for k, v in entries.items())
            parts.append(f"  {json.dumps(part)}: {{\n{rows}\n  }}")
        lines.append(f"{json.dumps(name)}: {{\n" + ",\n".join(parts) + "\n }")
    path.write_text("{\n " + ",\n ".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        record_all(Path(sys.argv[1]) if len(sys.argv) > 1 else DATA, Path(scratch))
