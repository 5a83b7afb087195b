"""Child process: its events read as they come, its silence and its crash reported."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import IO, Any

# The first use of a card may compile its programs, which takes minutes on some.
SILENCE_S = 600.0
TAIL_LINES = 12  # of what a child wrote to stderr


class ChildProcess:
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
    def last_line(self) -> str:
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
        results, tail = _read_streams(process)
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
            self.log = tuple(line.decode("utf-8", "replace").rstrip() for line in tail())
        if silent:
            self.failure, self.crashed = f"gave no sign for {SILENCE_S:.0f} seconds", True
        elif not ended and not self.failure:
            self.failure, self.crashed = f"ended with {signal_name(returncode)}", True


def _read_streams(
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

    def tail() -> list[bytes]:
        stderr_reader.join(timeout=5)  # a process that the child left behind may hold the stream open
        return list(last)

    stdout_reader = threading.Thread(
        target=read, args=(process.stdout, lines.put, lambda: lines.put(None)), daemon=True
    )
    stderr_reader = threading.Thread(
        target=read, args=(process.stderr, last.append, lambda: None), daemon=True
    )
    stdout_reader.start()
    stderr_reader.start()
    return results(), tail


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


def signal_name(returncode: int) -> str:
    """How a process ended, for people.

    Args:
        returncode: as `subprocess` gives it.

    Returns:
        Such as "signal 6 (SIGABRT)" or "exit code 3".
    """
    if returncode < 0:
        try:
            return f"signal {-returncode} ({signal.Signals(-returncode).name})"
        except ValueError:
            return f"signal {-returncode}"
    if returncode >= 0x8000_0000:  # Windows
        return f"exit code 0x{returncode:08X}"
    return f"exit code {returncode}"
