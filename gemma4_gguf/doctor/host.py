"""Machine facts: processor, graphics cards, versions and free space, found without llama.cpp."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from gemma4_gguf.cpu_cores import logical_cores

Vendor = Literal["nvidia", "amd", "intel", "apple"]

# Names in llama.cpp → in /proc/cpuinfo or sysctl. Those by which matrices are multiplied.
INSTRUCTION_SETS = {
    "AVX": ("avx", "avx1.0"),
    "AVX2": ("avx2",),
    "FMA": ("fma",),
    "F16C": ("f16c",),
    "AVX_VNNI": ("avx_vnni",),
    "AVX512": ("avx512f",),
    "AVX512_VNNI": ("avx512_vnni", "avx512vnni"),
    "AVX512_BF16": ("avx512_bf16", "avx512bf16"),
    "AMX_INT8": ("amx_int8",),
    "NEON": ("asimd", "neon"),
    "DOTPROD": ("asimddp", "feat_dotprod"),
    "FP16_VA": ("asimdhp", "feat_fp16"),
    "MATMUL_INT8": ("i8mm", "feat_i8mm"),
    "SVE": ("sve",),
}
# Oldest and newest version of each that the whole check ran with; the oldest are pyproject.toml's bounds.
TRIED_PYTHONS = ("3.10", "3.13")
TRIED = {
    "llama-cpp-python": ("0.3.36", "0.3.36"),
    "gguf": ("0.19", "0.19.0"),
    "numpy": ("1.26", "2.5.5"),
    "pillow": ("11.3", "13.0.0"),
    "pillow-heif": ("1.1", "1.8.1"),
    "av": ("14.2", "19.0.2"),
    "huggingface-hub": ("1.0", "2.4.0"),
    "llguidance": ("1.9", "1.9.1"),
    "pydantic": ("2.7", "2.14.4"),
    "jinja2": ("3.1.6", "3.1.6"),
    "docstring-parser": ("0.16", "0.18.0"),
    "rich": ("13.7", "15.0.0"),
    "packaging": ("23.0", "26.4"),
    "soxr": ("0.4", "1.1.0"),
    "cachetools": ("5.3", "8.0.2"),
    "shtab": ("1.13", "1.13.0"),
    "typing-extensions": ("4.6.1", "4.16.0"),
}
_VENDORS: dict[str, Vendor] = {"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel"}
_MAKERS = {"nvidia": "NVIDIA", "amd": "AMD", "intel": "Intel"}
_DISPLAY_CLASSES = ("0x0300", "0x0302", "0x0380")  # VGA, 3D, other display
_ACCELERATOR = ("amd", "0x1200")  # Instinct; other makers put what is no graphics card there
_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Card:
    """A graphics card.

    Args:
        vendor: who makes its chip.
        name: as its driver calls it, or its number on the bus where no driver answers.
        driver: version; "" where none answers.
    """

    vendor: Vendor
    name: str
    driver: str = ""


@dataclass(frozen=True)
class Place:
    """A directory that the library writes into.

    Args:
        what: for.
        path: where.
        free_bytes: room there.
        problem: why it cannot be written; "" if it can.
    """

    what: str
    path: str
    free_bytes: int
    problem: str = ""


@dataclass(frozen=True)
class Machine:
    """A machine and what is installed on it.

    Args:
        system: name and version of the operating system.
        architecture: of the processor, as the running Python sees it.
        python: its version.
        processor: its name.
        cores: that this process may use.
        memory_bytes: in all; 0 where it is not known.
        instruction_sets: that the processor has, in llama.cpp's names; empty where it is not known.
        cards: graphics cards found.
        packages: version of each that counts; "" where one is not installed.
        places: directories the library writes into.
    """

    system: str
    architecture: str
    python: str
    processor: str
    cores: int
    memory_bytes: int
    instruction_sets: tuple[str, ...]
    cards: tuple[Card, ...]
    packages: dict[str, str]
    places: tuple[Place, ...]


def describe_machine() -> Machine:
    """What this machine is made of. Starts nothing but the tools of drivers, where they are installed.

    Returns:
        The facts; "", 0 or empty where one is not known.
    """
    flags, name = _processor()
    return Machine(
        system=platform.platform(),
        architecture=platform.machine(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        processor=name or platform.processor() or platform.machine(),
        cores=logical_cores(),
        memory_bytes=_memory_bytes(),
        instruction_sets=instruction_sets(flags),
        cards=graphics_cards(),
        packages={package: version_of(package) for package in TRIED},
        places=places(),
    )


def version_of(distribution: str) -> str:
    """Version of an installed distribution.

    Args:
        distribution: its name.

    Returns:
        As its metadata says; "" if it is not there.
    """
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def instruction_sets(flags: str) -> tuple[str, ...]:
    """The instruction sets among a processor's flags.

    Args:
        flags: names as /proc/cpuinfo or sysctl writes them, apart by spaces.

    Returns:
        llama.cpp's names of those that count for it.
    """
    found = set(flags.lower().split())
    return tuple(name for name, known in INSTRUCTION_SETS.items() if found.intersection(known))


def graphics_cards(bus: Path = Path("/sys/bus/pci/devices")) -> tuple[Card, ...]:
    """Graphics cards of this machine, with and without a driver.

    Args:
        bus: directory of the PCI devices (Linux).

    Returns:
        Those of NVIDIA's driver first.
    """
    nvidia = _nvidia_cards()
    cards: list[Card] = list(nvidia)
    if bus.is_dir():
        for device in sorted(bus.iterdir()):
            vendor = _VENDORS.get(_read(device / "vendor"))
            kind = _read(device / "class")[:6]
            is_card = kind in _DISPLAY_CLASSES or (vendor, kind) == _ACCELERATOR
            if vendor and is_card and not (nvidia and vendor == "nvidia"):
                cards.append(Card(vendor, f"{_MAKERS[vendor]} card at {device.name}", _driver(device)))
    if sys.platform == "darwin" and platform.machine() == "arm64":
        cards.append(Card("apple", "Apple silicon", platform.mac_ver()[0]))
    return tuple(cards)


def places() -> tuple[Place, ...]:
    """The directories that downloads and the demo are written into, and whether they can be.

    Returns:
        One each; `problem` says why one cannot be written.
    """
    from huggingface_hub import constants

    found = [place("downloads", Path(constants.HF_HUB_CACHE).expanduser())]
    try:
        found.append(place("temporary files", Path(tempfile.gettempdir())))
    except OSError as error:
        found.append(Place("temporary files", "", 0, error.strerror or str(error)))
    return tuple(found)


def place(what: str, path: Path) -> Place:
    """Whether a directory, or the one it would be made in, can be written.

    Args:
        what: for.
        path: where.

    Returns:
        With its free bytes; `problem` says why it cannot be written.
    """
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        if not there.is_dir():
            return Place(what, str(path), 0, f"{there} is no directory")
        with tempfile.TemporaryFile(dir=there) as probe:
            probe.write(b"0" * 4096)
            probe.flush()
        return Place(what, str(path), shutil.disk_usage(there).free)
    except OSError as error:
        return Place(what, str(path), _free_bytes(there), error.strerror or str(error))


def _free_bytes(path: Path) -> int:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return 0


def _processor() -> tuple[str, str]:
    """Flags and name."""
    if sys.platform == "darwin":
        brand = tool_output("sysctl", "-n", "machdep.cpu.brand_string")
        intel = tool_output("sysctl", "-n", "machdep.cpu.features", "machdep.cpu.leaf7_features")
        arm = re.findall(r"hw\.optional\.arm\.(\w+): 1", tool_output("sysctl", "hw.optional.arm"))
        return " ".join([intel, *arm, "neon" if platform.machine() == "arm64" else ""]), brand
    info = _read(Path("/proc/cpuinfo"))
    flags = re.search(r"^(?:flags|Features)\s*: (.*)$", info, re.M)
    name = re.search(r"^(?:model name|Model)\s*: (.*)$", info, re.M)
    return flags[1] if flags else "", name[1].strip() if name else ""


def _nvidia_cards() -> list[Card]:
    query = "--query-gpu=name,driver_version"
    rows = tool_output("nvidia-smi", query, "--format=csv,noheader").splitlines()
    parts = [[part.strip() for part in row.split(",")] for row in rows]
    return [Card("nvidia", name, driver) for name, driver in (part for part in parts if len(part) == 2)]


def _driver(device: Path) -> str:
    link = device / "driver"
    return link.resolve().name if link.exists() else ""


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def tool_output(*command: str) -> str:
    """What a tool prints.

    Args:
        command: its name and arguments.

    Returns:
        Its stdout; "" if it is not there or fails.
    """
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
    return ""
