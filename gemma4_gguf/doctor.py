"""Is this installation right? Every device computes what transformers computed, or it is said where not.

Devices are examined one after the other, each in a process of its own (`gemma4_gguf.examination`), since
llama.cpp ends the process when something goes wrong inside. Here they are started, watched and summed up.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, get_args

from gemma4_gguf import __version__
from gemma4_gguf.advice import Advice, Library, advise, signal_name
from gemma4_gguf.bundled import bundled_checkpoint
from gemma4_gguf.errors import CheckpointError, OptionError, OutputError
from gemma4_gguf.examination import Check, Speed
from gemma4_gguf.machine import Machine, look_around
from gemma4_gguf.options import Device

# The first use of a card may compile its programs, which takes minutes on some.
SILENCE_S = 600.0
TAIL_LINES = 12  # of what a child wrote to stderr
# With the parent's own path: from a checkout, `-m` would find that instead of what is installed.
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from gemma4_gguf.examination import main; sys.exit(main(sys.argv[1:]))"
)

# (device, what is under way)
DoctorProgress = Callable[[str, str], None]


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
        """The same as plain values, for JSON."""
        devices = [asdict(device) | {"right": device.right} for device in self.devices]
        return asdict(self) | {"devices": devices, "right": self.right}


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
        examination: the command of the child process; empty takes `gemma4_gguf.examination`.

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
    machine = look_around()
    say("", "loading llama.cpp")
    library = look_at_library(command)
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


def look_at_library(examination: Sequence[str]) -> Library:
    """Which llama.cpp is installed, asked in a child process: a wrong build ends it on loading.

    Args:
        examination: the command of the child process.
    """
    known: dict[str, Any] = {}
    run = _Child([*examination, "library"])
    for event in run.events():
        if event["event"] == "library":
            known |= {key: value for key, value in event.items() if key != "event"}
    known |= {key: tuple(known[key]) for key in ("backends", "devices") if key in known}
    failure = run.failure
    if run.crashed:
        failure = f"llama.cpp does not load: the process {run.failure}{run.last_words}."
    return Library(**known, failure=failure)


def devices_of(library: Library, device: Device = "auto") -> tuple[str, ...]:
    """What to examine: the CPU, then every card that a session can be told to use.

    Args:
        library: what there is.
        device: look at this one alone; "auto" looks at all.
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
    run = _Child(command)
    for event in run.events():
        if event["event"] == "now":
            doing = event["what"]
            say(report.device, doing)
        elif event["event"] == "check":
            checks.append(Check(**{key: value for key, value in event.items() if key != "event"}))
        elif event["event"] == "speed":
            speed = Speed(event["prompt"], event["decode"])
    failure = f"{run.failure} at: {doing}{run.last_words}" if run.crashed else run.failure
    return replace(report, checks=tuple(checks), speed=speed, failure=failure, log=run.log if failure else ())


def _examine_all(
    library: Library, device: Device, command: list[str], places: tuple[str, str], say: DoctorProgress
) -> Iterator[DeviceReport]:
    say("", "converting the bundled checkpoint")
    run = _Child([*command, "prepare", *places])
    for _ in run.events():
        pass
    if run.failure:
        raise CheckpointError(f"The bundled checkpoint is not converted: {run.failure}{run.last_words}")
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


class _Child:
    """A child process that writes events.

    Args:
        command: of the child.

    Attributes:
        failure: why it did not come to its end, "" if it did. Known when the events have been read.
        crashed: it ended without a word about why.
        log: the last lines of its stderr.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self.failure = ""
        self.crashed = False
        self.log: tuple[str, ...] = ()

    @property
    def last_words(self) -> str:
        """A clause with the last line of the log, where llama.cpp says why it gives up."""
        spoken = [line.strip() for line in self.log if line.strip()]
        return f" (its last words: {spoken[-1]})" if spoken else ""

    def events(self) -> Iterator[dict[str, Any]]:
        """Yields events as they come; ends with the process."""
        environment = {**os.environ, "GGML_NO_BACKTRACE": "1", "PYTHONIOENCODING": "utf-8"}
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        results, words = _listen(process)
        ended = silent = False
        try:
            for line in results:
                if line is None:
                    silent = True
                    break
                event = _parsed(line)
                if event.get("event") == "error":
                    self.failure = str(event["message"])
                ended = ended or event.get("event") == "end"
                if event:
                    yield event
            if silent or not _ends(process):
                process.kill()
        except BaseException:  # Ctrl-C, or nobody wants to hear more
            process.kill()
            raise
        finally:
            returncode = process.wait()
            self.log = tuple(line.decode("utf-8", "replace").rstrip() for line in words())
        if silent:
            self.failure, self.crashed = f"gave no sign for {SILENCE_S:.0f} seconds", True
        elif not ended and not self.failure:
            self.failure, self.crashed = f"ended with {signal_name(returncode)}", True


def _listen(
    process: subprocess.Popen[bytes],
) -> tuple[Iterator[bytes | None], Callable[[], list[bytes]]]:
    """Lines of stdout as they come, None when it is silent for too long; and the last ones of stderr."""
    lines: queue.Queue[bytes | None] = queue.Queue()
    last: deque[bytes] = deque(maxlen=TAIL_LINES)

    def read(stream: IO[bytes] | None, take: Callable[[bytes], None], end: Callable[[], None]) -> None:
        with stream or nullcontext(()) as source:
            for line in source:
                take(line)
        end()

    def results() -> Iterator[bytes | None]:
        while True:
            try:
                line = lines.get(timeout=SILENCE_S)
            except queue.Empty:
                yield None
                return
            if line is None:
                return
            yield line

    def words() -> list[bytes]:
        listener.join(timeout=5)  # a process that the child left behind may hold the stream open
        return list(last)

    speaker = threading.Thread(
        target=read, args=(process.stdout, lines.put, lambda: lines.put(None)), daemon=True
    )
    listener = threading.Thread(target=read, args=(process.stderr, last.append, lambda: None), daemon=True)
    speaker.start()
    listener.start()
    return results(), words


def _ends(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process that closed its stdout ends soon by itself."""
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        return False
    return True


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:  # a driver's own words
        return {}
    return event if isinstance(event, dict) and "event" in event else {}


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
