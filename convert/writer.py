"""GGUF file writer: tensors encoded and written slice by slice, on all cores, in one pass.

Every size is known beforehand, so each thread reads a slice of rows, encodes it and writes it where it
belongs: no order has to be kept, nothing larger than a slice is held, and no intermediate file exists.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from gemma4_gguf.convert.ggml_encoder import FLOAT_TYPES, BlockEncoder, first_bad_row, is_quantized, row_bytes
from gemma4_gguf.convert.progress import Progress, ProgressCallback
from gemma4_gguf.cpu_cores import logical_cores
from gemma4_gguf.errors import TensorError
from gemma4_gguf.files.atomic_write import (
    PendingFile,
    check_free,
    output_error,
    prepare_directory,
    publish_all,
    termination_raises,
)
from gemma4_gguf.files.gguf_header import Header, TensorEntry, pack_header

ENCODED_SLICE = 1 << 19  # numbers; with its float32 copy and its blocks about 3 MB per thread
COPIED_SLICE = 1 << 22
# Nanoseconds one core takes per number, for the share of the work done. Measured on an EPYC of 2023; only the
# proportions matter.
_COST_NS = {
    "IQ4_NL": 180.0,
    "IQ4_XS": 180.0,
    "Q4_K": 66.0,
    "Q5_K": 57.0,
    "Q2_K": 57.0,
    "Q6_K": 28.0,
    "Q3_K": 12.5,
    "Q8_0": 3.3,
}
_CHEAP_NS = 1.5


@dataclass(frozen=True)
class OutputTensor:
    """One tensor of a file to write.

    Args:
        name: GGUF name.
        shape: numpy order.
        type: ggml type to store.
        raw_type: type of the rows that `read` returns.
        via: plain type the numbers are rounded to before they are encoded, or None.
        read: rows start..stop of the tensor as [n_rows, row_length]; thread-safe.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    raw_type: str
    via: str | None
    read: Callable[[int, int], np.ndarray]

    @property
    def n_rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def n_bytes(self) -> int:
        return self.n_rows * row_bytes(self.type, self.shape[-1])

    @property
    def is_copied(self) -> bool:
        return self.raw_type == self.type and self.via in (None, self.type)


@dataclass(frozen=True)
class OutputFile:
    """A file to write.

    Args:
        path: its final name.
        entries: packed metadata.
        tensors: in file order.
        check_numbers: refuse weights that are not numbers.
    """

    path: Path
    entries: Sequence[bytes]
    tensors: Sequence[OutputTensor]
    check_numbers: bool


def write_files(
    files: Sequence[OutputFile],
    *,
    force: bool = False,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
    before_publishing: Callable[[], None] = lambda: None,
) -> None:
    """Writes files of one directory: all of them, or none.

    Args:
        files: what to write.
        force: replace existing files.
        threads: encoding threads, at least 1; None takes the usable cores.
        progress: called after each slice, in the calling thread. An exception it raises ends the run.
        before_publishing: called when everything is written and nothing has its name yet. An exception it
            raises ends the run.

    Raises:
        OutputError: a file exists, the disk has no room, the place cannot be written.
        TensorError: a weight is not a number where numbers are checked.
    """
    headers = [header_of(file) for file in files]
    finals = [file.path for file in files]
    directory = finals[0].parent
    made = [path for path in (directory, *directory.parents) if not os.path.lexists(path)]
    needed = sum(header.file_bytes for header in headers)
    try:
        prepare_directory(finals, needed, force=force)
        with termination_raises(), contextlib.ExitStack() as stack:
            pending = [stack.enter_context(PendingFile(path)) for path in finals]
            check_free(finals, force=force)  # another process may have finished until the locks were ours
            try:
                for target, header in zip(pending, headers, strict=True):
                    os.ftruncate(target.fd, header.file_bytes)
                    target.write_at(header.data, 0)
                _Run(files, headers, pending, threads or logical_cores(), progress).run()
                before_publishing()
                publish_all(pending)
            except OSError as error:
                raise output_error(error, directory) from error
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError, ValueError):
                path.rmdir()
        raise


def header_of(file: OutputFile) -> Header:
    """The packed header of a file, which says where each tensor goes and how large the file is.

    Args:
        file: what will be written.

    Returns:
        The header; nothing is read or written.
    """
    tensors = (TensorEntry(tensor.name, tensor.shape, tensor.type, tensor.n_bytes) for tensor in file.tensors)
    return pack_header(file.entries, tensors)


@dataclass(frozen=True)
class _Slice:
    file: OutputFile
    target: PendingFile
    tensor: OutputTensor
    start: int
    stop: int
    offset: int

    @property
    def n_elements(self) -> int:
        return (self.stop - self.start) * self.tensor.shape[-1]

    @property
    def n_bytes(self) -> int:
        return (self.stop - self.start) * row_bytes(self.tensor.type, self.tensor.shape[-1])

    @property
    def cost_ns(self) -> float:
        return self.n_elements * _COST_NS.get("" if self.tensor.is_copied else self.tensor.type, _CHEAP_NS)


class _Run:
    """Threads that take slices off one list, and the calling thread that reports how far they are."""

    def __init__(
        self,
        files: Sequence[OutputFile],
        headers: Sequence[Header],
        pending: Sequence[PendingFile],
        n_threads: int,
        progress: ProgressCallback | None,
    ) -> None:
        self._slices = [
            piece
            for file, header, target in zip(files, headers, pending, strict=True)
            for piece in _slices(file, header, target)
        ]
        self._n_threads = max(1, min(n_threads, len(self._slices)))
        self._progress = progress
        self._next = iter(self._slices)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._done: SimpleQueue[_Slice | BaseException] = SimpleQueue()

    def run(self) -> None:
        encoded = (piece.n_elements for piece in self._slices if not piece.tensor.is_copied)
        largest = max(encoded, default=1)
        workers = [threading.Thread(target=self._work, args=(largest,)) for _ in range(self._n_threads)]
        try:
            for worker in workers:
                worker.start()
            self._report()
        finally:
            self._stop.set()
            for worker in workers:
                _join(worker)

    def _report(self) -> None:
        total_bytes = sum(piece.n_bytes for piece in self._slices)
        total_cost = sum(piece.cost_ns for piece in self._slices) or 1.0
        done_bytes, done_cost = 0, 0.0
        for _ in self._slices:
            piece = self._done.get()
            if isinstance(piece, BaseException):
                raise piece
            done_bytes += piece.n_bytes
            done_cost += piece.cost_ns
            if self._progress is not None:
                share = min(1.0, done_cost / total_cost)
                name = piece.file.path.name
                self._progress(Progress(name, piece.tensor.name, done_bytes, total_bytes, share))

    def _work(self, max_elements: int) -> None:
        try:
            encoder = BlockEncoder(max_elements)
            while not self._stop.is_set():
                with self._lock:
                    piece = next(self._next, None)
                if piece is None:
                    return
                _write_slice(piece, encoder)
                self._done.put(piece)
        except BaseException as error:  # handed to the calling thread, which raises it
            self._done.put(error)


def _slices(file: OutputFile, header: Header, target: PendingFile) -> Iterator[_Slice]:
    for tensor, offset in zip(file.tensors, header.offsets, strict=True):
        width = row_bytes(tensor.type, tensor.shape[-1])
        step = max(1, (COPIED_SLICE if tensor.is_copied else ENCODED_SLICE) // tensor.shape[-1])
        for start in range(0, tensor.n_rows, step):
            stop = min(start + step, tensor.n_rows)
            yield _Slice(file, target, tensor, start, stop, offset + start * width)


def _write_slice(piece: _Slice, encoder: BlockEncoder) -> None:
    tensor = piece.tensor
    rows = tensor.read(piece.start, piece.stop)
    if piece.file.check_numbers and tensor.raw_type in FLOAT_TYPES:
        # Infinity stays what it is in a plain tensor (clamps use it); no block type can hold it.
        bad = first_bad_row(rows, tensor.raw_type, allow_infinity=not is_quantized(tensor.type))
        if bad is not None:
            raise _not_a_number(piece, bad)
    data = encoder.encode(rows, tensor.raw_type, tensor.via, tensor.type)
    if data.nbytes != piece.n_bytes:
        raise TensorError(f"Tensor {tensor.name!r} gave {data.nbytes} bytes for a slice of {piece.n_bytes}.")
    if piece.file.check_numbers and _can_overflow(tensor) and not encoder.is_valid(data, tensor.type):
        raise TensorError(
            f"Tensor {tensor.name!r}, rows {piece.start} to {piece.stop - 1}: weights are too large for "
            f"{tensor.type}. Choose BF16 or F32."
        )
    piece.target.write_at(data, piece.offset)


def _can_overflow(tensor: OutputTensor) -> bool:
    return is_quantized(tensor.type) or (tensor.type == "F16" and not tensor.is_copied)


def _not_a_number(piece: _Slice, row: int) -> TensorError:
    return TensorError(
        f"Tensor {piece.tensor.name!r} holds NaN or infinity in row {piece.start + row} of "
        f"{piece.tensor.n_rows}; a quantized file cannot. The weights are damaged: download them again, or "
        "convert to BF16 to keep them as they are."
    )


def _join(worker: threading.Thread) -> None:
    """Waits for a thread even if Ctrl-C is pressed again: it may still write to a file about to be closed."""
    while worker.is_alive():
        with contextlib.suppress(KeyboardInterrupt):
            worker.join()
