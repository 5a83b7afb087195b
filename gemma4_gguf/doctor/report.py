"""Examination report: checks, speeds, devices and advice, as values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from gemma4_gguf.doctor.host import INSTRUCTION_SETS, Machine


@dataclass(frozen=True)
class Check:
    """One thing looked at on a device.

    Args:
        name: what, in a word or two.
        model: type of the model file.
        right: it is as it should be.
        found: in words.
        needed: in words; "" where `found` says it all.
        values: the same as numbers; None for what is none.
    """

    name: str
    model: str
    right: bool
    found: str
    needed: str = ""
    values: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Speed:
    """Tokens a second of the small model; they compare devices, and say nothing about larger models.

    Args:
        prompt: tokens read.
        decode: tokens written.
    """

    prompt: float
    decode: float


@dataclass(frozen=True)
class Library:
    """The installed llama.cpp.

    Args:
        llama_cpp_python: version of its Python package; "" if it does not tell.
        ggml: version of its tensor library.
        commit: of the source it was built from.
        system_info: instruction sets and options it was built with, as it prints them.
        amx_fault: the compiler that made its AMX kernels unusable; "" if none did.
        backends: what it was built for.
        devices: fields of `DeviceInfo`.
        failure: why it does not load, in a sentence; "" if it does.
    """

    llama_cpp_python: str = ""
    ggml: str = ""
    commit: str = ""
    system_info: str = ""
    amx_fault: str = ""
    backends: tuple[str, ...] = ()
    devices: tuple[dict[str, Any], ...] = field(default_factory=tuple)
    failure: str = ""

    @property
    def instruction_sets(self) -> tuple[str, ...]:
        """That the processor's part was built with."""
        words = self.system_info.replace("=", " ").split()
        return tuple(name for name in INSTRUCTION_SETS if name in words)


@dataclass(frozen=True)
class Advice:
    """Something to change.

    Args:
        wrong: nothing can be trusted or used before; otherwise it would only be better.
        what: is the case.
        todo: in a sentence; "" where `what` says it.
        command: that does it; "" without one.
    """

    wrong: bool
    what: str
    todo: str = ""
    command: str = ""


@dataclass(frozen=True)
class DeviceReport:
    """What was found on one device.

    Args:
        device: its name in our options.
        names: of the hardware.
        checks: in the order made.
        speed: of the small model; None if it did not come to that.
        failure: why the examination ended early, in a sentence; "" if it did not.
        log: the last lines that it wrote to stderr, if it failed.
    """

    device: str
    names: tuple[str, ...]
    checks: tuple[Check, ...] = ()
    speed: Speed | None = None
    failure: str = ""
    log: tuple[str, ...] = ()

    @property
    def right(self) -> bool:
        """Everything was looked at and is as it should be."""
        return not self.failure and bool(self.checks) and all(check.right for check in self.checks)


@dataclass(frozen=True)
class Report:
    """Everything the doctor found.

    Args:
        version: of this library.
        machine: where it runs.
        library: the installed llama.cpp.
        devices: one report each.
        advice: what to change, what is wrong first.
    """

    version: str
    machine: Machine
    library: Library
    devices: tuple[DeviceReport, ...]
    advice: tuple[Advice, ...]

    @property
    def right(self) -> bool:
        """Nothing is wrong."""
        return all(device.right for device in self.devices) and not any(a.wrong for a in self.advice)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON.

        Returns:
            Nested dicts and tuples.
        """
        devices = [asdict(device) | {"right": device.right} for device in self.devices]
        return asdict(self) | {"devices": devices, "right": self.right}
