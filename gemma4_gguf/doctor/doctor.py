"""Installation check: every device computes what transformers computed, or it is said where not.

Devices are examined one after the other, each in a process of its own (`device_process`), since llama.cpp
ends the process when something goes wrong inside. Here they are started, watched and summed up.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from gemma4_gguf import __version__
from gemma4_gguf.doctor.advice import advise
from gemma4_gguf.doctor.child_process import ChildProcess
from gemma4_gguf.doctor.host import describe_machine
from gemma4_gguf.doctor.report import Advice, Check, DeviceReport, Library, Report, Speed
from gemma4_gguf.errors import CheckpointError, OptionError, OutputError
from gemma4_gguf.nano.bundled import bundled_checkpoint
from gemma4_gguf.options import Device

# With the parent's own path: from a checkout, `-m` would find that instead of what is installed.
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from gemma4_gguf.doctor.device_process import main; sys.exit(main(sys.argv[1:]))"
)

# (device, what is under way)
DoctorProgress = Callable[[str, str], None]


def examine_machine(
    device: Device = "auto",
    *,
    progress: DoctorProgress | None = None,
    examination: Sequence[str] = (),
) -> Report:
    """Look at this machine, its llama.cpp, and every device that it can compute on.

    Args:
        device: look at this one alone; "auto" looks at all.
        progress: called with what is under way.
        examination: the command of the child process; empty takes `gemma4_gguf.doctor.device_process`.

    Returns:
        The report. Whatever is wrong stands in it.

    Raises:
        OptionError: there is no such device name.
    """
    if device not in get_args(Device):
        raise OptionError(f"device is {device!r}; expected one of {', '.join(get_args(Device))}.")
    say = progress or (lambda device, what: None)
    command = list(examination) or [sys.executable, "-c", _START, json.dumps(sys.path)]
    say("", "looking at the machine")
    machine = describe_machine()
    say("", "loading llama.cpp")
    library = examine_library(command)
    devices: list[DeviceReport] = []
    before: list[Advice] = []
    if not library.failure:
        try:
            with bundled_checkpoint() as checkpoint, _scratch() as folder:
                devices += _examine_all(library, device, command, (str(checkpoint), str(folder)), say)
        except (CheckpointError, OutputError) as error:
            before.append(Advice(True, str(error)))
    advice = (*before, *advise(machine, library, devices))
    return Report(__version__, machine, library, tuple(devices), advice)


def examine_library(examination: Sequence[str]) -> Library:
    """Which llama.cpp is installed, asked in a child process: a wrong build ends it on loading.

    Args:
        examination: the command of the child process.

    Returns:
        What it is; `failure` says why it does not load.
    """
    known: dict[str, Any] = {}
    run = ChildProcess([*examination, "library"])
    for event in run.events():
        if event["event"] == "library":
            known |= {key: value for key, value in event.items() if key != "event"}
    known |= {key: tuple(known[key]) for key in ("backends", "devices") if key in known}
    failure = run.failure
    if run.crashed:
        failure = f"llama.cpp does not load: the process {run.failure}{run.last_line}."
    return Library(**known, failure=failure)


def devices_of(library: Library, device: Device = "auto") -> tuple[str, ...]:
    """What to examine: the CPU, then every card that a session can be told to use.

    Args:
        library: what there is.
        device: look at this one alone; "auto" looks at all.

    Returns:
        Names as in `Device`.
    """
    if device != "auto":
        return (device,)
    found = [entry["backend"] for entry in library.devices if entry["kind"] in ("gpu", "igpu")]
    return tuple(dict.fromkeys(["cpu", *(name for name in found if name in get_args(Device))]))


def examine_device(report: DeviceReport, command: Sequence[str], say: DoctorProgress) -> DeviceReport:
    """Run the examination of one device.

    Args:
        report: still empty.
        command: of the child process.
        say: called with what is under way.

    Returns:
        The report, filled; a crash leaves what was found before it.
    """
    checks: list[Check] = []
    speed, doing = None, "starting"
    run = ChildProcess(command)
    for event in run.events():
        if event["event"] == "now":
            doing = event["what"]
            say(report.device, doing)
        elif event["event"] == "check":
            checks.append(Check(**{key: value for key, value in event.items() if key != "event"}))
        elif event["event"] == "speed":
            speed = Speed(event["prompt"], event["decode"])
    failure = f"{run.failure} at: {doing}{run.last_line}" if run.crashed else run.failure
    return replace(report, checks=tuple(checks), speed=speed, failure=failure, log=run.log if failure else ())


def _examine_all(
    library: Library, device: Device, command: list[str], places: tuple[str, str], say: DoctorProgress
) -> Iterator[DeviceReport]:
    say("", "converting the bundled checkpoint")
    run = ChildProcess([*command, "prepare", *places])
    for _ in run.events():
        pass
    if run.failure:
        raise CheckpointError(f"The bundled checkpoint is not converted: {run.failure}{run.last_line}")
    for name in devices_of(library, device):
        say(name, "starting")
        names = tuple(entry["description"] for entry in library.devices if entry["backend"] == name)
        report = DeviceReport(name, names)
        if name not in library.backends:
            yield replace(report, failure=f"this build of llama.cpp has {', '.join(library.backends)} alone")
        elif not names:
            yield replace(report, failure="this build of llama.cpp finds no such device")
        else:
            yield examine_device(report, [*command, "device", name, *places], say)


@contextmanager
def _scratch() -> Iterator[Path]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="gemma4-gguf-doctor-", ignore_cleanup_errors=True)
    except OSError as error:
        raise OutputError(
            f"No temporary directory can be made: {error.strerror or error}. Set TMPDIR (TEMP on Windows) to "
            "a directory that can be written."
        ) from error
    with folder as path:
        yield Path(path)
