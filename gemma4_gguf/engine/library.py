"""llama.cpp itself: loaded on first use, its log lines turned into Python's, its devices listed.

Bindings are the low-level modules of llama-cpp-python (`llama_cpp.llama_cpp`, `llama_cpp.mtmd_cpp`), from the
first version whose llama.cpp decodes every Gemma 4 member correctly. What they do not bind (the devices of
ggml-backend.h) is bound here. Importing this module loads nothing.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import logging
import mmap
import os
import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemma4_gguf.errors import DeviceError, EngineError
from gemma4_gguf.options import Device

MINIMUM_VERSION = (0, 3, 36)
DISTRIBUTION = "llama-cpp-python"

# enum ggml_log_level (ggml.h); 5 continues the line before.
_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
_CONTINUE = 5
# enum ggml_backend_dev_type (ggml-backend.h)
_KINDS = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accelerator", 4: "meta"}
# Names of llama.cpp's backends in lower case → names in our options, where they differ.
_BACKENDS = {"hip": "rocm", "mtl": "metal"}

# First version of each GCC that compiles ggml's AMX kernels right.
_AMX_RIGHT_SINCE = {11: (11, 5), 12: (12, 4), 13: (13, 3)}

_log = logging.getLogger("gemma4_gguf.llama_cpp")
logging.getLogger("gemma4_gguf").addHandler(logging.NullHandler())  # quiet unless the application asks
_lock = threading.RLock()


@dataclass(frozen=True)
class DeviceInfo:
    """One device that this build of llama.cpp can compute on.

    Args:
        name: as llama.cpp calls it, such as "CUDA0".
        description: of the hardware.
        backend: "cpu", "cuda", "metal", "rocm", "vulkan" or another name of llama.cpp's in lower case.
        kind: "cpu", "gpu", "igpu", "accelerator" or "meta".
        memory_bytes: in all; 0 where it is not known.
        free_bytes: of it now.
    """

    name: str
    description: str
    backend: str
    kind: str
    memory_bytes: int
    free_bytes: int


def installed_version() -> tuple[int, ...]:
    """Version of llama-cpp-python, without loading it.

    Raises:
        EngineError: it is absent or too old.
    """
    needed = ".".join(map(str, MINIMUM_VERSION))
    try:
        text = importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        raise EngineError(
            f'{DISTRIBUTION} is not installed. Install it: pip install "{DISTRIBUTION}>={needed}"'
        ) from error
    version = tuple(int(part) for part in re.findall(r"\d+", text.split("+")[0])[:3])
    if version < MINIMUM_VERSION:
        raise EngineError(
            f"{DISTRIBUTION} {text} is installed; Gemma 4 needs {needed} or newer: older ones decode "
            f'it wrongly. Upgrade: pip install -U "{DISTRIBUTION}>={needed}"'
        )
    return version


@functools.cache
def llama() -> Any:
    """The binding module of llama.h, loaded and started.

    Raises:
        EngineError: llama-cpp-python is absent, too old, or its library does not load.
    """
    with _lock:
        installed_version()
        try:
            from llama_cpp import llama_cpp
        except (ImportError, OSError, RuntimeError) as error:
            raise EngineError(
                f"llama.cpp's library does not load: {error}. "
                f"Reinstall it: pip install --force-reinstall {DISTRIBUTION}"
            ) from error
        llama_cpp.llama_log_set(_log_callback(), None)
        llama_cpp.llama_backend_init()
        if not _ggml("ggml_backend_dev_count", ctypes.c_size_t)():
            _ggml("ggml_backend_load_all", None)()
        return llama_cpp


@functools.cache
def mtmd() -> Any:
    """The binding module of mtmd.h (projectors), loaded and quietened.

    Raises:
        EngineError: as for `llama`, or llama-cpp-python was built without mtmd.
    """
    llama()
    with _lock:
        try:
            from llama_cpp import mtmd_cpp
        except (ImportError, OSError, RuntimeError) as error:
            raise EngineError(
                f"llama.cpp's multimodal library does not load: {error}. This build has no mtmd; "
                f"reinstall {DISTRIBUTION}, or open the model with projector=None."
            ) from error
        mtmd_cpp.mtmd_helper_log_set(_log_callback(), None)
        return mtmd_cpp


def build_info() -> str:
    """What llama.cpp says about itself: instruction sets and backends, one line."""
    return str(llama().llama_print_system_info().decode(errors="replace")).strip()


@functools.cache
def amx_fault() -> str:
    """Why this build's matrix kernels for Intel AMX end the process; "" if they do not, or it has none.

    GCC before 11.5, 12.4, 13.3 and 14 takes the tile configuration for unused and drops it (its bug 114098):
    the first tile instruction is then an illegal one (llama.cpp's pull request 26954). Builds are made for
    the processor at hand, so Debian 12's compiler meets every Xeon since Sapphire Rapids.

    Returns:
        The compiler, such as "GCC 12.2".
    """
    if "AMX_INT8 = 1" not in build_info():
        return ""
    for path in sorted(Path(_base_path()).glob("*ggml-cpu*.so*")):
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            # Compilers sign what they make, in the section .comment.
            signatures = re.findall(rb"GCC: \([^)]*\) (\d+)\.(\d+)", content)
        for major, minor in {(int(major), int(minor)) for major, minor in signatures}:
            if (major, minor) < _AMX_RIGHT_SINCE.get(major, (14, 0)):
                return f"GCC {major}.{minor}"
    return ""


def ggml_build() -> tuple[str, str]:
    """Version and commit of the ggml in it; "" for what an older one does not tell."""
    llama()
    known = []
    for name in ("ggml_version", "ggml_commit"):
        try:
            known.append(_ggml(name, ctypes.c_char_p)().decode(errors="replace"))
        except EngineError:
            known.append("")
    return known[0], known[1]


def backends() -> tuple[str, ...]:
    """What this build of llama.cpp can compute with, whether or not there is a device for it.

    Returns:
        Names as in `DeviceInfo.backend`.
    """
    llama()
    get = _ggml("ggml_backend_reg_get", ctypes.c_void_p, ctypes.c_size_t)
    return tuple(_backend_name(get(i)) for i in range(_ggml("ggml_backend_reg_count", ctypes.c_size_t)()))


# Log lines


class _LogSink:
    """Joins pieces to lines, hands them to logging and keeps the last complaints for error messages."""

    def __init__(self) -> None:
        self.complaints: deque[str] = deque(maxlen=6)
        self._level = logging.DEBUG
        self._line = ""

    def __call__(self, level: int, text: bytes | None, _data: Any) -> None:
        if level != _CONTINUE:
            self._level = _LEVELS.get(level, logging.DEBUG)
        if self._level < logging.WARNING and not _log.isEnabledFor(self._level):
            return
        self._line += (text or b"").decode("utf-8", "replace")
        *lines, self._line = self._line.split("\n")
        for line in filter(None, map(str.rstrip, lines)):
            if self._level >= logging.ERROR:
                self.complaints.append(line)
            _log.log(self._level, "%s", line)


_sink = _LogSink()


@functools.cache
def _log_callback() -> Any:
    from llama_cpp import llama_cpp

    return llama_cpp.llama_log_callback(_sink)  # cached: C keeps the pointer, so it must never be collected


@contextmanager
def complaints() -> Iterator[deque[str]]:
    """Collects what llama.cpp reports as errors inside the block, to be quoted when something fails."""
    _sink.complaints.clear()
    yield _sink.complaints


def quote(lines: deque[str]) -> str:
    """A clause for an error message out of collected lines; empty without any."""
    return f" llama.cpp said: {' / '.join(lines)}" if lines else ""


# Devices


def devices() -> tuple[DeviceInfo, ...]:
    """Every device that this build of llama.cpp can use, CPU included.

    Raises:
        EngineError: llama.cpp does not load.
    """
    return tuple(_describe(handle) for handle in _handles())


def select_device(device: Device) -> tuple[Any, bool]:
    """Turns the name of a device into what llama_model_params.devices takes.

    Args:
        device: as in SessionOptions.

    Returns:
        A NULL-terminated array of handles (None: every device), and whether layers can leave the CPU.

    Raises:
        DeviceError: this build has no such device.
    """
    handles = _handles()
    infos = [_describe(handle) for handle in handles]
    if device == "cpu":
        return (ctypes.c_void_p * 1)(None), False
    off_cpu = [i for i, info in enumerate(infos) if info.kind in ("gpu", "igpu")]
    if device == "auto":
        return None, bool(off_cpu)
    chosen = [handles[i] for i in off_cpu if infos[i].backend == device]
    if not chosen:
        there = sorted({info.backend for info in infos})
        raise DeviceError(
            f"device={device!r}: this build of llama.cpp has {', '.join(there)}. "
            f"Install a build of {DISTRIBUTION} for {device}, or take device='auto'."
        )
    return (ctypes.c_void_p * (len(chosen) + 1))(*chosen, None), True


def _handles() -> list[int]:
    llama()
    get = _ggml("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    return [get(i) for i in range(_ggml("ggml_backend_dev_count", ctypes.c_size_t)())]


def _describe(handle: int) -> DeviceInfo:
    pointer = ctypes.c_void_p
    name = _ggml("ggml_backend_dev_name", ctypes.c_char_p, pointer)(handle)
    description = _ggml("ggml_backend_dev_description", ctypes.c_char_p, pointer)(handle)
    kind = _KINDS.get(_ggml("ggml_backend_dev_type", ctypes.c_int, pointer)(handle), "gpu")
    registry = _ggml("ggml_backend_dev_backend_reg", pointer, pointer)(handle)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    size = ctypes.POINTER(ctypes.c_size_t)
    _ggml("ggml_backend_dev_memory", None, pointer, size, size)(handle, free, total)
    return DeviceInfo(
        name=name.decode(errors="replace"),
        description=description.decode(errors="replace"),
        backend=_backend_name(registry),
        kind=kind,
        memory_bytes=total.value,
        free_bytes=free.value,
    )


def _backend_name(registry: int) -> str:
    name = _ggml("ggml_backend_reg_name", ctypes.c_char_p, ctypes.c_void_p)(registry).decode().lower()
    return _BACKENDS.get(name, name)


def _base_path() -> str:
    """Directory of llama.cpp's libraries."""
    return str(llama()._base_path)


@functools.cache
def _ggml(name: str, result: Any, *arguments: Any) -> Any:
    """Binds a ggml function; its library differs per platform, so every one of the package is asked."""
    from llama_cpp import llama_cpp
    from llama_cpp._ctypes_extensions import load_shared_library

    for base in ("llama", "ggml", "ggml-base"):
        library = llama_cpp._lib if base == "llama" else load_shared_library(base, llama_cpp._base_path)
        if hasattr(library, name):
            prototype = ctypes.CFUNCTYPE(result, *arguments)
            return prototype(ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0)
    raise EngineError(f"llama.cpp lacks {name}. Reinstall {DISTRIBUTION}.")


# Threads


def default_threads() -> int:
    """Physical cores this process may use: hyper-threads and cores outside the cgroup only slow ggml down."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # macOS, Windows
        return max(1, os.cpu_count() or 1)
    cores = {_siblings(cpu) for cpu in allowed}
    return max(1, min(len(cores), _cgroup_cores()))


def _siblings(cpu: int) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(cpu)


def _cgroup_cores() -> int:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, round(int(quota) / int(period)))
    except (OSError, ValueError):  # no cgroup v2, or no limit ("max")
        return os.cpu_count() or 1
