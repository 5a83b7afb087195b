"""Advice: what a person should install or set, given what the doctor found."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from packaging.version import InvalidVersion, Version

from gemma4_gguf.doctor.host import TRIED, TRIED_PYTHONS, Card, Machine
from gemma4_gguf.doctor.report import Advice, DeviceReport, Library
from gemma4_gguf.engine.library import DISTRIBUTION, MINIMUM_VERSION

LEAST_FREE_BYTES = 5_000_000_000  # an E2B as Q4_K_M takes 3.4 GB, its projector 1 GB
NEEDED = f'"{DISTRIBUTION}>={".".join(map(str, MINIMUM_VERSION))}"'

# Backend → option of the build, what has to be installed first.
_BUILDS = {
    "cuda": ("-DGGML_CUDA=on", "the CUDA toolkit (nvcc --version answers then)"),
    "rocm": ("-DGGML_HIP=on", "ROCm with its HIP compiler"),
    "vulkan": ("-DGGML_VULKAN=on", "the Vulkan SDK (glslc --version answers then)"),
    "metal": ("-DGGML_METAL=on", "Xcode's command line tools"),
}
# Without these, matrices are multiplied several times slower.
_EXPECTED = ("AVX", "AVX2", "FMA", "F16C", "AVX512", "NEON", "DOTPROD", "MATMUL_INT8")
# Options of llama.cpp's build that stand for what the processor has.
_X86_OPTIONS = ("AVX", "AVX2", "FMA", "F16C", "AVX_VNNI", "AVX512", "AVX512_VNNI", "AVX512_BF16")
_REPORT = "Please report it with the output of gemma4-gguf doctor --json."
_ILLEGAL = ("SIGILL", "0xC000001D")


def advise(machine: Machine, library: Library, devices: Sequence[DeviceReport]) -> list[Advice]:
    """Everything to change, what is wrong first.

    Args:
        machine: it.
        library: the installed llama.cpp.
        devices: what was found on each.

    Returns:
        Advice of which each stands by itself; empty if all is well.
    """
    found = [*_about_library(library), *_about_versions(machine), *_about_places(machine)]
    if not library.failure:
        found += [*_about_devices(library, devices), *_about_cards(machine, library)]
        found += _about_processor(machine, library)
    return sorted(found, key=lambda advice: not advice.wrong)


def build_command(options: str = "", *, platform: str = sys.platform) -> str:
    """The command that compiles llama-cpp-python on this machine, for this machine.

    Args:
        options: of CMake.
        platform: of `sys.platform`.

    Returns:
        For a shell; for PowerShell on Windows.
    """
    install = f"pip install --force-reinstall --no-cache-dir --no-binary {DISTRIBUTION} {NEEDED}"
    if not options:
        return install
    if platform == "win32":
        return f'$env:CMAKE_ARGS="{options}"; {install}'
    return f'CMAKE_ARGS="{options}" {install}'


def _about_library(library: Library) -> Iterator[Advice]:
    if not library.failure:
        return
    if any(name in library.failure for name in _ILLEGAL):
        what = f"{DISTRIBUTION} was built for another processor: it uses instructions that this one lacks."
        yield Advice(True, what, "Compile it here.", build_command())
    else:
        yield Advice(True, library.failure, "If that does not help, compile it here.", build_command())


def _about_versions(machine: Machine) -> Iterator[Advice]:
    """Python and packages that nobody tried."""
    oldest, newest = TRIED_PYTHONS
    compared = _compare(machine.python.split()[-1], oldest, f"{newest}.999")
    if compared:
        what = f"{machine.python} is {compared} than what was tried, Python {oldest} to {newest}."
        yield Advice(compared == "older", what, f"Take Python {newest} if anything fails.")
    for name, version in machine.packages.items():
        oldest, newest = TRIED[name]
        compared = _compare(version, oldest, newest)
        if compared:
            what = f"{name} {version} is {compared} than what was tried, {oldest} to {newest}."
            todo = "Update it." if compared == "older" else "Most likely it works; if anything fails:"
            bound = f">={oldest}" if compared == "older" else f">={oldest},<={newest}"
            yield Advice(compared == "older", what, todo, f'pip install "{name}{bound}"')


def _compare(version: str, oldest: str, newest: str) -> str:
    """ "older", "newer", or "" where a version lies between two, or cannot be read."""
    try:
        found = Version(Version(version).public)  # "+cu124" tells a build, not a version
    except InvalidVersion:
        return ""
    if found < Version(oldest):
        return "older"
    return "newer" if found > Version(newest) else ""


def _about_places(machine: Machine) -> Iterator[Advice]:
    for place in machine.places:
        variable = "HF_HUB_CACHE" if place.what == "downloads" else "TMPDIR (TEMP on Windows)"
        todo = f"Allow writing, make room, or set {variable} to another directory."
        if place.problem:  # a cache that others fill may well be read-only
            what = f"No {place.what} can be written to {place.path or 'any place'}: {place.problem}."
            yield Advice(place.what != "downloads", what, todo)
        elif place.what == "downloads" and place.free_bytes < LEAST_FREE_BYTES:
            free = f"{place.free_bytes / 1e9:.1f} GB"
            yield Advice(False, f"{place.path} has {free} free; the smallest model takes 4.4 GB.", todo)


def _about_devices(library: Library, devices: Sequence[DeviceReport]) -> Iterator[Advice]:
    right = [report.device for report in devices if report.right]
    for report in devices:
        if report.right:
            continue
        what = _what_failed(report)
        if any(name in report.failure for name in _ILLEGAL):
            yield Advice(True, what, "It was built for another processor. Compile it here.", build_command())
        elif report.device == "cpu":
            yield Advice(True, what, f"Do not use this build. Compile it here. {_REPORT}", build_command())
        elif report.device not in library.backends:
            yield Advice(True, what, *_how_to_build(report.device))
        elif not report.names:
            yield Advice(True, what, "Install its driver, or see that it runs; then start the doctor again.")
        else:
            instead = next(iter(right), "cpu")
            todo = (
                f"Do not use it: take --device {instead} (device={instead!r} in Python). Update its driver, "
                f"or compile again. {_REPORT}"
            )
            yield Advice(True, what, todo, build_command(_BUILDS[report.device][0]))


def _what_failed(report: DeviceReport) -> str:
    wrong = [f"{check.name} ({check.model})" for check in report.checks if not check.right]
    parts = [report.failure] if report.failure else []
    if wrong:
        parts.append(f"wrong are {', '.join(dict.fromkeys(wrong))}")
    return f"{report.device}: {'; '.join(parts) or 'nothing was examined'}."


def _about_cards(machine: Machine, library: Library) -> Iterator[Advice]:
    """Cards that nothing computes on."""
    used = {device["backend"] for device in library.devices if device["kind"] in ("gpu", "igpu")}
    for vendor in dict.fromkeys(card.vendor for card in machine.cards):
        cards = [card for card in machine.cards if card.vendor == vendor]
        backend = {"nvidia": "cuda", "amd": "rocm", "apple": "metal", "intel": "vulkan"}[vendor]
        if used & {backend, "vulkan"}:
            continue
        names = ", ".join(dict.fromkeys(card.name for card in cards))
        if backend in library.backends:
            what = f"This build of llama.cpp has {backend} but finds no card, although there is {names}."
            yield Advice(False, what, _driver_help(vendor, cards))
        else:
            what = f"This build of llama.cpp does not use {names}: it has {', '.join(library.backends)}."
            yield Advice(False, what, *_how_to_build(backend))


def _driver_help(vendor: str, cards: Sequence[Card]) -> str:
    if vendor == "nvidia":
        if any(card.driver for card in cards):
            return (
                "Its driver may be older than the CUDA of the build: update it, or compile again. Or "
                "CUDA_VISIBLE_DEVICES hides the card."
            )
        return "Install its driver (nvidia-smi answers then) and start the doctor again."
    return "Install its driver, and let this user open it (on Linux the groups render and video)."


def _how_to_build(backend: str) -> tuple[str, str]:
    """What to do, and the command."""
    options, needs = _BUILDS[backend]
    other = " Vulkan (-DGGML_VULKAN=on) is easier to install, and slower." if backend == "rocm" else ""
    return f"Install {needs}, then compile for it.{other}", build_command(options)


def _about_processor(machine: Machine, library: Library) -> Iterator[Advice]:
    if not library.system_info or not machine.instruction_sets:
        return
    there = [name for name in machine.instruction_sets if name in _EXPECTED]
    unused = [name for name in there if name not in library.instruction_sets]
    if "AVX" in there and "AVX2" not in there:
        yield Advice(False, "The processor has no AVX2: answers come slowly.", "Use a graphics card, or E2B.")
    if library.amx_fault:
        what = (
            f"{library.amx_fault} compiled the AMX kernels of this build so that they end the process (GCC's "
            "bug 114098). They are left alone, and prompts are read more slowly."
        )
        sets = " ".join(f"-DGGML_{name}=ON" for name in machine.instruction_sets if name in _X86_OPTIONS)
        yield Advice(False, what, "Compile it without them.", build_command(f"-DGGML_NATIVE=OFF {sets}"))
    elif unused:
        what = f"The processor has {', '.join(unused)}, which this build does not use: it could be faster."
        yield Advice(False, what, "Compile it here.", build_command())
