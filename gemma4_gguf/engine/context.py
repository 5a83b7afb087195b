"""Decoding context: the key/value cache of several conversations, and the decoding into it.

Three things differ from llama.cpp's defaults. The cache is windowed (swa_full off), which the ledger in
`kv_cache` accounts for. One micro-batch holds the largest picture where its tokens must see each other. Only
a few rows of logits are reserved, since one row of 262,144 takes a megabyte.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from gemma4_gguf.cpu_cores import physical_cores
from gemma4_gguf.engine import compute_thread, library
from gemma4_gguf.engine.batch import Batch
from gemma4_gguf.engine.compute_thread import Interrupt, aside
from gemma4_gguf.engine.kv_cache import Item, MediaSpan, SequenceState, n_positions
from gemma4_gguf.engine.lifetime import LifetimeLock
from gemma4_gguf.engine.model import Model
from gemma4_gguf.engine.prefix_reuse import Reuse
from gemma4_gguf.errors import ContextFullError, EngineError, OptionError
from gemma4_gguf.options import SessionOptions, check_session_options
from gemma4_gguf.special_tokens import TURN_OPEN
from gemma4_gguf.types import IMAGE_TOKEN_BUDGETS

TEXT_BATCH = 512
CPU_TEXT_BATCH = 48  # 9 % slower there, with an eighth of the buffers and of the rows mapped at once
IMAGE_BATCH = 1152  # the largest budget (1120), rounded up to a multiple of 128
N_OUTPUTS = 48  # rows of logits one decode can give
SWA_PADDING = 256  # llama_kv_cache_iswa rounds the cells of the sliding-window layers up to it
_KV_TYPES = {"f32": 0, "f16": 1, "q8_0": 8}  # enum ggml_type
_KV_BYTES = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32}
LONGEST = 2**20  # tokens of a conversation, unless the model was trained for a quarter of it or more
CELL_BYTES = 64  # llama_kv_cells beside the numbers
_ABORTED = 2  # llama_decode was told to stop

_log = logging.getLogger(__name__)


class Context:
    """Owns a llama_context and the ledger-checked access to its cache.

    Not for two threads at once: hold `lock` around a decode and the reading of its logits.

    Args:
        model: loaded model; it must outlive the context.
        options: sizes, cache type, threads.
        vision: a projector with a picture tower will be used.

    Raises:
        OptionError: the options are out of range or contradict each other.
        EngineError: llama.cpp cannot make the context.
    """

    def __init__(self, model: Model, options: SessionOptions, *, vision: bool = False) -> None:
        options = check_session_options(options)
        _check_size(model, options)
        lib = library.llama()
        self.model = model
        self.n_ctx = options.n_ctx
        self.n_seq = options.n_seq
        spare = model.on_gpu or not options.release_pages
        text_batch = TEXT_BATCH if spare else max(CPU_TEXT_BATCH, options.n_seq)
        self.n_batch = IMAGE_BATCH if vision and model.facts.bidirectional_images else text_batch
        self.n_outputs = max(N_OUTPUTS, self.n_seq)
        self.lock = LifetimeLock(model.lifetime)
        self._lib = lib
        with model.lifetime, library.complaints() as said:
            handle = self._make(self._parameters(options))
            if not handle:
                instead = " Or take device='cpu'." if model.on_gpu else ""
                raise EngineError(
                    f"llama.cpp cannot make a context of {options.n_ctx} tokens × {options.n_seq} with a "
                    f"{options.kv_type} cache: try fewer tokens or another kv_type.{instead}"
                    f"{library.quote(said)}"
                )
        self.reuse = self._make_reuse(options)
        self._batch = Batch(lib, self.n_batch, self.n_seq)
        self._single = Batch(lib, 1, self.n_seq)
        model.lifetime.on_stop(self.interrupt.stop)
        if options.n_ctx > model.facts.n_ctx_train:
            _log.warning(
                "n_ctx %d is more than the model was trained for (%d)", options.n_ctx, model.facts.n_ctx_train
            )

    @property
    def handle(self) -> Any:
        """The llama_context; None once it is freed."""
        return self._handle if self._finalizer.alive else None

    def _make(self, params: Any) -> Any:
        """Makes the llama_context, on another thread, as its log lines come through a callback."""

        def make() -> Any:
            handle = self._lib.llama_init_from_model(self.model.handle, params)
            if handle:
                self._handle = handle
                self._finalizer = weakref.finalize(self, self._lib.llama_free, handle)
                self.model.lifetime.on_close(self._finalizer)
                self.interrupt = Interrupt(self._lib, handle)
            return handle

        return aside(make, stop=lambda: None)

    def _parameters(self, options: SessionOptions) -> Any:
        params = self._lib.llama_context_default_params()
        params.n_ctx = options.n_ctx * options.n_seq
        params.n_batch = params.n_ubatch = self.n_batch
        params.n_seq_max = options.n_seq
        params.n_outputs_max = self.n_outputs
        params.n_threads = params.n_threads_batch = options.n_threads or physical_cores()
        compute_thread.wait_policy.expect(params.n_threads)
        params.type_k = params.type_v = _KV_TYPES[options.kv_type]
        params.flash_attn_type = _flash_attention(options)
        params.swa_full = options.swa_full
        params.kv_unified = True
        params.offload_kqv = params.op_offload = self.model.on_gpu
        params.no_perf = True
        return params

    def _make_reuse(self, options: SessionOptions) -> Reuse:
        n_swa, n_all = self.model.facts.n_swa, options.n_ctx * options.n_seq
        # llama_kv_cache_iswa: cells of the sliding-window layers
        n_cells = n_all if options.swa_full else n_swa * options.n_seq + self.n_batch
        n_cells += -n_cells % SWA_PADDING
        turn = self.model.token_id(TURN_OPEN)
        return Reuse(
            self._lib,
            self.handle,
            n_swa=n_swa,
            evicts=options.n_ctx > n_swa and (options.n_seq > 1 or options.n_ctx > n_cells),
            snapshot_bytes=options.snapshot_bytes,
            turn=None if turn is None else (turn, tuple(self.model.tokenize("user"))),
        )

    def close(self) -> None:
        """Frees the context, once no decode is running. Calling it again does nothing."""
        if not self.model.lifetime.is_over:
            with self.lock:
                self._finalizer()

    def require_open(self) -> None:
        """Checks that it is open: llama.cpp would read freed memory.

        Raises:
            EngineError: it was closed.
        """
        self.model.lifetime.require()
        if self.handle is None:
            raise EngineError("The context is closed. Open the session again.")

    # The cache

    def fit(self, state: SequenceState, items: Sequence[Item], others: Iterable[SequenceState] = ()) -> int:
        """Keeps what a sequence can keep of a prompt, drops the rest, and leaves an item to decode.

        Args:
            state: a lent sequence.
            items: the whole prompt.
            others: sequences whose beginning may be taken over.

        Returns:
            Items that are kept.
        """
        self.require_open()
        return self.reuse.fit(state, items, others)

    def prefill(
        self, state: SequenceState, items: Sequence[Item], others: Sequence[SequenceState] = ()
    ) -> int:
        """Brings a sequence to the end of a prompt: `fit`, `extend`, and snapshots on the way.

        Args:
            state: a lent sequence.
            items: the whole prompt.
            others: all sequences.

        Returns:
            Positions that were not decoded.

        Raises:
            ContextFullError: the prompt does not fit.
            EngineError: llama.cpp fails.
        """
        self.require_room(n_positions(items))
        self.fit(state, items, others)
        reused = state.n_past
        for place in self.reuse.places(state, items):
            if place > len(state.items):
                self.extend(state, items[len(state.items) : place])
            self.reuse.take(state, others)
        self.extend(state, items[len(state.items) :])
        return reused

    # Decoding

    def extend(self, state: SequenceState, items: Sequence[Item]) -> None:
        """Decodes items into a sequence; the logits of the last token can be read afterwards.

        Args:
            state: a lent sequence, fitted.
            items: what comes after its items.

        Raises:
            ContextFullError: they do not fit.
            EngineError: llama.cpp fails.
        """
        self.require_room(state.n_past + n_positions(items))
        runs = _runs(items)
        with _changing(state):
            for i, run in enumerate(runs):
                last = i == len(runs) - 1
                if isinstance(run, MediaSpan):
                    self._decode_span(state, run, wanted=last)
                    state.append([run])
                    continue
                for start in range(0, len(run), self.n_batch):
                    part = run[start : start + self.n_batch]
                    rows = 1 if last and start + len(part) == len(run) else 0
                    self._decode(self._batch.set_tokens(part, state.n_past, state.number, rows))
                    state.append(part)

    def extend_one(self, state: SequenceState, token: int) -> None:
        """Decodes one token: `extend` without its overhead, for the reply.

        Args:
            state: a lent sequence, fitted.
            token: id of what comes after its items.

        Raises:
            ContextFullError: it does not fit.
            EngineError: llama.cpp fails.
        """
        self.require_room(state.n_past + 1)
        state.dirty = True
        self._decode(self._single.set_one(token, state.n_past, state.number))
        state.items.append(token)
        state.n_past += 1
        state.dirty = False

    def all_logits(self, state: SequenceState, items: Sequence[Item]) -> np.ndarray:
        """Decodes items and returns the logits after each.

        Args:
            state: a lent sequence, fitted.
            items: what comes after its items.

        Returns:
            float32 [n_positions, n_vocab]; the rows of media spans are NaN: nothing is predicted inside them.

        Raises:
            ContextFullError: they do not fit.
            EngineError: llama.cpp fails.
        """
        self.require_room(state.n_past + n_positions(items))
        logits = np.full((n_positions(items), self.model.n_vocab), np.nan, np.float32)
        row = 0
        with _changing(state):
            for run in _runs(items):
                if isinstance(run, MediaSpan):
                    self._decode_span(state, run, wanted=False)
                    state.append([run])
                    row += run.n_tokens
                    continue
                for start in range(0, len(run), self.n_outputs):
                    part = run[start : start + self.n_outputs]
                    self._decode(self._batch.set_tokens(part, state.n_past, state.number, len(part)))
                    state.append(part)
                    for i in range(len(part)):
                        logits[row + i] = self.logits(i)
                    row += len(part)
        return logits

    def logits(self, row: int = -1) -> np.ndarray:
        """Logits of one token of the last decode.

        Args:
            row: which of those that wanted logits; -1 is the last.

        Returns:
            float32 [n_vocab], valid until the next decode.
        """
        pointer = self._lib.llama_get_logits_ith(self.handle, row)
        return np.ctypeslib.as_array(pointer, (self.model.n_vocab,))

    def require_room(self, n_tokens: int) -> None:
        """Checks that a conversation can hold so many tokens.

        Args:
            n_tokens: soft tokens of media included.

        Raises:
            ContextFullError: it cannot.
        """
        if n_tokens > self.n_ctx:
            raise ContextFullError(
                f"The prompt needs {n_tokens:,} tokens, the context holds {self.n_ctx:,}. Shorten it, lower "
                "image_tokens, start a new chat, or open the session with a larger n_ctx.",
                n_tokens=n_tokens,
                n_ctx=self.n_ctx,
            )

    def _decode_span(self, state: SequenceState, span: MediaSpan, *, wanted: bool) -> None:
        """A bidirectional span goes in whole; a causal one may be cut anywhere."""
        if span.bidirectional and span.n_tokens > self.n_batch:
            raise EngineError(
                f"A picture of {span.n_tokens} tokens must be decoded at once; this context takes "
                f"{self.n_batch}. The largest budget is {IMAGE_TOKEN_BUDGETS[-1]}."
            )
        embeddings = span.load()
        self._lib.llama_set_causal_attn(self.handle, not span.bidirectional)
        try:
            for start in range(0, span.n_tokens, self.n_batch):
                part = embeddings[start : start + self.n_batch]
                rows = int(wanted and start + len(part) == span.n_tokens)
                self._decode(self._batch.set_embeddings(part, state.n_past + start, state.number, rows))
        finally:
            self._lib.llama_set_causal_attn(self.handle, True)

    def _decode(self, batch: Any) -> None:
        self.require_open()
        self.model.watch.require()
        code = self.interrupt.run(lambda: self._lib.llama_decode(self._handle, batch))
        if code:
            self.require_open()
            raise _failed(code, self.model.on_gpu)
        self.model.pages.after_decode(batch.n_tokens)


@contextmanager
def _changing(state: SequenceState) -> Iterator[None]:
    """Marks a sequence as untrustworthy until the block has ended well."""
    state.dirty = True
    yield
    state.dirty = False


def _failed(code: int, on_gpu: bool) -> EngineError:
    if code == _ABORTED:
        return EngineError("Decoding was interrupted. The session can be used again.")
    instead = " If it fails again: gemma4-gguf doctor examines the card, device='cpu' does without it."
    return EngineError(
        f"llama.cpp failed to decode (code {code}). The session can be used again.{instead if on_gpu else ''}"
    )


def _runs(items: Sequence[Item]) -> list[list[int] | MediaSpan]:
    """Groups items into runs of tokens and single spans."""
    runs: list[list[int] | MediaSpan] = []
    for item in items:
        if isinstance(item, MediaSpan):
            runs.append(item)
        elif runs and isinstance(runs[-1], list):
            runs[-1].append(item)
        else:
            runs.append([item])
    return runs


def _check_size(model: Model, options: SessionOptions) -> None:
    """llama.cpp asks for the memory and fills it, until the system ends the process."""
    trained = model.facts.n_ctx_train
    most = max(LONGEST, 4 * trained)
    if options.n_ctx > most:
        raise OptionError(
            f"n_ctx is {options.n_ctx:,}; expected at most {most:,}: the model was trained for {trained:,} "
            "tokens."
        )
    n_bytes = options.n_ctx * options.n_seq * (model.facts.n_cached * _KV_BYTES[options.kv_type] + CELL_BYTES)
    there = memory_bytes()
    if not model.on_gpu and there and n_bytes > there:
        raise OptionError(
            f"A cache of {options.n_ctx:,} tokens × {options.n_seq} takes {n_bytes / 2**30:.1f} GiB, this "
            f"machine has {there / 2**30:.1f}. Take a smaller n_ctx or n_seq, or kv_type='q8_0'."
        )


def memory_bytes() -> int:
    """Memory of this machine; 0 where the system does not say.

    Returns:
        Bytes, used ones included.
    """
    names = ("SC_PAGE_SIZE", "SC_PHYS_PAGES")
    known = getattr(os, "sysconf_names", {})
    return os.sysconf(names[0]) * os.sysconf(names[1]) if all(name in known for name in names) else 0


def _flash_attention(options: SessionOptions) -> int:
    """enum llama_flash_attn_type: -1 auto, 0 off, 1 on. Auto may come out as off, and q8_0 then fails."""
    if options.flash_attention is None:
        return 1 if options.kv_type == "q8_0" else -1
    return int(options.flash_attention)
