"""llama.cpp library: loaded on first use, its log lines turned into Python's.

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
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gemma4_gguf.errors import EngineError

MINIMUM_VERSION = (0, 3, 36)
DISTRIBUTION = "llama-cpp-python"

# enum ggml_log_level (ggml.h); 5 continues the line before.
_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
_CONTINUE = 5

# First version of each GCC that compiles ggml's AMX kernels right.
_AMX_RIGHT_SINCE = {11: (11, 5), 12: (12, 4), 13: (13, 3)}

_log = logging.getLogger("gemma4_gguf.llama_cpp")
logging.getLogger("gemma4_gguf").addHandler(logging.NullHandler())  # quiet unless the application asks
_lock = threading.RLock()
_loaded_in: list[int] = []  # process ids, one at most


def installed_version() -> tuple[int, ...]:
    """Version of llama-cpp-python, without loading it.

    Returns:
        Three numbers.

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

    Returns:
        llama_cpp.llama_cpp.

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
        _loaded_in.append(os.getpid())
        if not _ggml("ggml_backend_dev_count", ctypes.c_size_t)():
            _ggml("ggml_backend_load_all", None)()
        return llama_cpp


@functools.cache
def mtmd() -> Any:
    """The binding module of mtmd.h (projectors), loaded and quietened.

    Returns:
        llama_cpp.mtmd_cpp.

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


def loaded_before_fork() -> bool:
    """Whether this process was forked from one that had loaded llama.cpp, whose cards are of no use here."""
    return bool(_loaded_in) and _loaded_in[0] != os.getpid()


def build_info() -> str:
    """What llama.cpp says about itself: instruction sets and backends, one line.

    Returns:
        Names and values, such as "CPU : AVX2 = 1 | …".
    """
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
    for path in sorted(Path(base_path()).glob("*ggml-cpu*.so*")):
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            # Compilers sign what they make, in the section .comment.
            signatures = re.findall(rb"GCC: \([^)]*\) (\d+)\.(\d+)", content)
            if re.search(rb"clang version \d", content):  # then GCC signed what the system put in alone
                continue
        for major, minor in {(int(major), int(minor)) for major, minor in signatures}:
            if (major, minor) < _AMX_RIGHT_SINCE.get(major, (14, 0)):
                return f"GCC {major}.{minor}"
    return ""


def ggml_build() -> tuple[str, str]:
    """Version and commit of the ggml in it; "" for what an older one does not tell.

    Returns:
        Version, commit.
    """
    llama()
    known = []
    for name in ("ggml_version", "ggml_commit"):
        try:
            known.append(_ggml(name, ctypes.c_char_p)().decode(errors="replace"))
        except EngineError:
            known.append("")
    return known[0], known[1]


# Log lines


class _LogSink:
    """Joins pieces to lines, hands them to logging and keeps the last complaints for error messages."""

    def __init__(self) -> None:
        self.complaints: deque[str] = deque(maxlen=6)
        self._interrupt: KeyboardInterrupt | None = None
        self._level = logging.DEBUG
        self._line = ""

    def __call__(self, level: int, text: bytes | None, _data: Any) -> None:
        try:
            self._take(level, text)
        except KeyboardInterrupt as interrupt:  # nothing passes from here through C
            self._interrupt = interrupt

    def raise_interrupt(self) -> None:
        """Raises the Ctrl-C that came while a line was taken."""
        interrupt, self._interrupt = self._interrupt, None
        if interrupt is not None:
            raise interrupt

    def _take(self, level: int, text: bytes | None) -> None:
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
    """Collects what llama.cpp reports as errors inside the block, to be quoted when something fails.

    Yields:
        The lines; at most the last six are kept.
    """
    _sink.complaints.clear()
    yield _sink.complaints
    _sink.raise_interrupt()


@contextmanager
def unheard() -> Iterator[None]:
    """Lets log lines go nowhere inside the block, in which something is freed.

    A Ctrl-C would be lost in a callback of Python that C calls, before its first line. libc's abs takes a log
    line as well as any function, and does nothing.
    """
    nothing = ctypes.cast(libc().abs, type(_log_callback()))
    try:
        _set_log(nothing)
        yield
    finally:
        _set_log(_log_callback())


def _set_log(callback: Any) -> None:
    llama().llama_log_set(callback, None)
    if mtmd.cache_info().currsize:
        mtmd().mtmd_helper_log_set(callback, None)


def libc() -> Any:
    """The C library of this process."""
    return ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)


def quote(lines: deque[str]) -> str:
    """A clause for an error message out of collected lines; empty without any.

    Args:
        lines: from `complaints`.

    Returns:
        Begins with a space; empty without any.
    """
    return f" llama.cpp said: {' / '.join(lines)}" if lines else ""


# Devices


def base_path() -> str:
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
