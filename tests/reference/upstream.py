"""Record what llama.cpp's converter writes for the tiny checkpoints: tests/data/reference/upstream_*.json.

    pip install -e '.[reference]'
    export GEMMA4_GGUF_LLAMA_CPP_SRC=path/to/llama.cpp
    PYTHONPATH=tests:tests/helpers python tests/reference/upstream.py [directory]

The source tree is the one vendored in the llama-cpp-python sdist (vendor/llama.cpp). One child converts
all of it: it imports upstream's own copy of the gguf package, and torch once for all files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny
from gguf_description import describe

DATA = Path(__file__).resolve().parent.parent / "data" / "reference"
SOURCE_VARIABLE = "GEMMA4_GGUF_LLAMA_CPP_SRC"

OUTTYPES = ("f32", "f16", "bf16", "q8_0")


@dataclass(frozen=True)
class Case:
    """One checkpoint to convert: options of tiny.write_checkpoint, and what to make of it."""

    member: str
    options: dict[str, Any] = field(default_factory=dict)
    outtypes: tuple[str, ...] = OUTTYPES
    projector: bool = False


# Upstream reads the config through transformers, which drops the MoE keys of a unified text model unless they
# stand in the file; and it cannot convert same_head_dim at all (no head size for the full layers).
CASES: dict[str, Case] = {
    "e2b": Case("e2b", projector=True),
    "e4b": Case("e4b", projector=True),
    "26b": Case("26b", projector=True),
    "31b": Case("31b", projector=True),
    "12b": Case("12b", {"spelling": "global"}, projector=True),
    "assistant": Case("assistant"),
    "assistant_unified": Case("assistant_unified", {"spelling": "global"}),
    "e2b_text": Case("e2b_text", {"chat_template": "{{ bos_token }}{{ messages[0].content }}"}),
    "e2b-base": Case("e2b", {"chat": False}, ("bf16",)),
    "e2b-tied-head-stored": Case("e2b", {"lm_head": True}, ("bf16",)),
    "e2b-unused-kv-stored": Case("e2b", {"shared_kv_weights": True}, ("bf16",)),
    "e4b-stored-f16": Case("e4b", {"dtype": "F16"}, ("bf16",)),
    "26b-stored-f32": Case("26b", {"dtype": "F32"}, ("bf16",)),
    "31b-no-softcap": Case("31b", {"overrides": {"final_logit_softcapping": None}}, ("bf16",)),
}

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


def record_all(out: Path, scratch: Path) -> None:
    """Convert every case with upstream's converter and write one JSON per case into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    records: dict[str, dict[str, Any]] = {}
    jobs: dict[tuple[str, str], list[str]] = {}
    for name, case in CASES.items():
        directory = scratch / name / f"tiny-{case.member}"
        tiny.write_checkpoint(case.member, directory, **case.options)
        head = {"member": case.member, "options": case.options}
        records[name] = head | {"digest": tiny.checkpoint_digest(directory)}
        for outtype in case.outtypes:
            for kind in ("model", "projector")[: 1 + case.projector]:
                outfile = str(scratch / name / f"{kind}-{outtype}.gguf")
                flags = ["--outtype", outtype, *(["--mmproj"] if kind == "projector" else [])]
                jobs[name, f"{kind}-{outtype}"] = [str(directory), "--outfile", outfile, *flags]
    convert(list(jobs.values()))
    for (name, file), arguments in jobs.items():
        records[name][file] = describe(Path(arguments[2]))
    for name, record in records.items():
        write_record(out / f"upstream_{name}.json", record)


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
    lines = []
    for name, value in record.items():
        if "-" not in name:
            lines.append(f"{json.dumps(name)}: {json.dumps(value)}")
            continue
        parts = []
        for part, entries in value.items():
            rows = ",\n".join(f"   {json.dumps(k)}: {json.dumps(v)}" for k, v in entries.items())
            parts.append(f"  {json.dumps(part)}: {{\n{rows}\n  }}")
        lines.append(f"{json.dumps(name)}: {{\n" + ",\n".join(parts) + "\n }")
    path.write_text("{\n " + ",\n ".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        record_all(Path(sys.argv[1]) if len(sys.argv) > 1 else DATA, Path(scratch))
