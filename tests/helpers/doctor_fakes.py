"""Machines, libraries and child processes of the doctor that nobody here has."""

from __future__ import annotations

import json
from typing import Any

from gemma4_gguf.doctor.host import Card, Machine, Place
from gemma4_gguf.doctor.report import Library

CPU = {"name": "CPU", "description": "A processor", "backend": "cpu", "kind": "cpu"}
CUDA = {"name": "CUDA0", "description": "NVIDIA H200", "backend": "cuda", "kind": "gpu"}
AVX2_BUILD = "CPU : SSE3 = 1 | AVX = 1 | AVX2 = 1 | FMA = 1 | F16C = 1 | OPENMP = 1 |"
NVIDIA = Card("nvidia", "NVIDIA H200", "580.65")
CHECK = {
    "event": "check",
    "name": "text",
    "model": "F32",
    "right": True,
    "found": "KL 1.0e-07, peak 3.0e-06",
    "needed": "up to 5e-05, peak 5e-03",
    "values": {"mean_kl": 1e-7},
}
END = {"event": "end"}


def machine(*cards: Card, sets: tuple[str, ...] = ("AVX", "AVX2", "FMA", "F16C"), **changes: Any) -> Machine:
    facts: dict[str, Any] = {
        "system": "Linux",
        "architecture": "x86_64",
        "python": "CPython 3.12.1",
        "processor": "A processor",
        "cores": 8,
        "memory_bytes": 16_000_000_000,
        "instruction_sets": sets,
        "cards": cards,
        "packages": {"numpy": "2.0.0", "av": ""},
        "places": (Place("downloads", "cache", 50_000_000_000),),
    }
    return Machine(**facts | changes)


def library(*devices: dict[str, Any], backends: tuple[str, ...] = ("cpu",), **changes: Any) -> Library:
    facts: dict[str, Any] = {
        "llama_cpp_python": "0.3.36",
        "ggml": "0.25.3",
        "commit": "0c1e570",
        "system_info": AVX2_BUILD,
        "backends": backends,
        "devices": (CPU, *devices),
    }
    return Library(**facts | changes)


def child(**scripts: str) -> str:
    """Python code that stands in for the child process.

    Args:
        scripts: "library", "prepare" and names of devices to the code that runs for them; `emit(row)` is
            there. What is not named ends well.
    """
    shown = {"event": "library", "llama_cpp_python": "0.3.36", "ggml": "0.25.3", "commit": "0c1e570"}
    shown |= {"system_info": AVX2_BUILD, "backends": ["cuda", "cpu"], "devices": [CUDA, CPU]}
    parts = {
        "library": f"emit({json.dumps(shown)})",
        "prepare": "",
        "cpu": f"emit(json.loads({json.dumps(json.dumps(CHECK))}))",
        "cuda": f"emit(json.loads({json.dumps(json.dumps(CHECK))}))",
    } | scripts
    return (
        "import json, os, signal, sys, time\n"
        "def emit(row): print(json.dumps(row), flush=True)\n"
        "what = sys.argv[2] if sys.argv[2] != 'device' else sys.argv[3]\n"
        f"exec({parts!r}[what])\n"
        "emit({'event': 'end'})\n"
    )
