"""Compute devices: those of this build of llama.cpp, and the choice among them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from gemma4_gguf.engine.library import DISTRIBUTION, _ggml, llama, loaded_before_fork
from gemma4_gguf.errors import DeviceError
from gemma4_gguf.options import Device

# enum ggml_backend_dev_type (ggml-backend.h)
_KINDS = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accelerator", 4: "meta"}
_CARDS = ("gpu", "igpu")
# Names of llama.cpp's backends in lower case → names in our options, where they differ.
_BACKENDS = {"hip": "rocm", "mtl": "metal"}


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


def backends() -> tuple[str, ...]:
    """What this build of llama.cpp can compute with, whether or not there is a device for it.

    Returns:
        Names as in `DeviceInfo.backend`.
    """
    llama()
    get = _ggml("ggml_backend_reg_get", ctypes.c_void_p, ctypes.c_size_t)
    return tuple(_backend_name(get(i)) for i in range(_ggml("ggml_backend_reg_count", ctypes.c_size_t)()))


def list_devices() -> tuple[DeviceInfo, ...]:
    """Every device that this build of llama.cpp can use, CPU included.

    Returns:
        In llama.cpp's order.

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
        DeviceError: this build has no such device, or the process was forked after a card was opened.
    """
    if device == "cpu":
        return (ctypes.c_void_p * 1)(None), False
    handles = _handles()
    if loaded_before_fork() and any(kind_of(handle) in _CARDS for handle in handles):
        raise DeviceError(
            "This process was forked from one that had opened its cards, which cannot be used here. Start it "
            "with multiprocessing's 'spawn', or take device='cpu'."
        )
    infos = [_describe(handle) for handle in handles]
    off_cpu = [i for i, info in enumerate(infos) if info.kind in _CARDS]
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
    registry = _ggml("ggml_backend_dev_backend_reg", pointer, pointer)(handle)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    size = ctypes.POINTER(ctypes.c_size_t)
    _ggml("ggml_backend_dev_memory", None, pointer, size, size)(handle, free, total)
    return DeviceInfo(
        name=name.decode(errors="replace"),
        description=description.decode(errors="replace"),
        backend=_backend_name(registry),
        kind=kind_of(handle),
        memory_bytes=total.value,
        free_bytes=free.value,
    )


def kind_of(handle: int) -> str:
    """What a device is, without opening it.

    Args:
        handle: ggml_backend_dev_t.

    Returns:
        As in `DeviceInfo.kind`.
    """
    return _KINDS.get(_ggml("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)(handle), "gpu")


def _backend_name(registry: int) -> str:
    name = _ggml("ggml_backend_reg_name", ctypes.c_char_p, ctypes.c_void_p)(registry).decode().lower()
    return _BACKENDS.get(name, name)
