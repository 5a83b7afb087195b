"""Model: its weights where the device wants them, and its vocabulary."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gemma4_gguf.engine import library
from gemma4_gguf.engine.compute_thread import aside
from gemma4_gguf.engine.devices import select_device
from gemma4_gguf.engine.file_watch import FileWatch
from gemma4_gguf.engine.lifetime import Lifetime
from gemma4_gguf.engine.resident_pages import FilePages
from gemma4_gguf.errors import EngineError, MessageError
from gemma4_gguf.files.model_file import ModelFacts
from gemma4_gguf.options import Device
from gemma4_gguf.special_tokens import ControlTokens

_ALL_LAYERS = -1
_LAZY = 2  # LLAMA_LAZY_MODE_ON: rows of the per-layer embeddings are read when a token needs them
_USER_DEFINED = 16  # LLAMA_TOKEN_ATTR_USER_DEFINED: read out of every text, special or not


class Model:
    """Owns a llama_model; closing it also frees every context and projector made from it.

    Args:
        facts: of the file, from `model_file.check_model`.
        device: where the layers run.
        n_gpu_layers: layers on that device; None places all of them (none on the CPU).
        release_pages: as in SessionOptions.

    Attributes:
        lifetime: inside which it, and what is made from it, is used.
        watch: of the file, asked before each decode.

    Raises:
        DeviceError: this build of llama.cpp has no such device.
        EngineError: llama.cpp cannot load the file.
    """

    def __init__(
        self,
        facts: ModelFacts,
        *,
        device: Device = "auto",
        n_gpu_layers: int | None = None,
        release_pages: bool = True,
    ) -> None:
        lib = library.llama()
        devices, off_cpu = select_device(device)
        params = lib.llama_model_default_params()
        params.devices = ctypes.cast(devices, ctypes.c_void_p) if devices is not None else None
        params.n_gpu_layers = (_ALL_LAYERS if n_gpu_layers is None else n_gpu_layers) if off_cpu else 0
        if release_pages and not off_cpu:  # a GPU has its own rules for what it can map
            params.lazy_mode = _LAZY
        if library.amx_fault():  # AMX goes with all repacked weights, or not at all
            params.use_extra_bufts = False
        self.facts = facts
        self.on_gpu = off_cpu and params.n_gpu_layers != 0
        self._lib = lib
        self.watch = FileWatch(facts.path, facts.stamp)
        self.lifetime = Lifetime()
        try:
            with self.lifetime:
                handle = self._load(params)
                self.watch.require_same_file()
                self.pages = FilePages(
                    facts.path if release_pages and not off_cpu else None, facts.tensor_spans
                )
                self.lifetime.on_close(weakref.finalize(self, self.pages.forget))
                self.pages.after_load()
        except BaseException:
            self.close()
            raise
        self.vocab = lib.llama_model_get_vocab(handle)
        self.control = self._control_tokens()
        self._pieces: dict[int, bytes] = {}
        self.n_vocab: int = lib.llama_vocab_n_tokens(self.vocab)
        self.n_embd: int = lib.llama_model_n_embd_inp(handle)
        self.bos: int = lib.llama_vocab_bos(self.vocab)

    @property
    def handle(self) -> Any:
        """The llama_model; None once it is freed."""
        return self._handle if self._finalizer.alive else None

    def _load(self, params: Any) -> Any:
        """Loads the file, on another thread: it takes long, and Ctrl-C must stop it and leave nothing."""
        stopped = threading.Event()
        self.lifetime.on_stop(stopped.set)
        go_on = self._lib.llama_progress_callback(lambda _share, _data: not stopped.is_set())
        params.progress_callback = go_on
        path = path_bytes(self.facts.path)

        def load() -> Any:
            handle = self._lib.llama_model_load_from_file(path, params)
            if handle:
                self._handle = handle
                self._finalizer = weakref.finalize(self, self._lib.llama_model_free, handle)
                self.lifetime.on_close(self._finalizer)
            return handle

        with library.complaints() as said:
            handle = aside(load, stopped.set)
            if not handle:
                self.lifetime.require()
                instead = " On the processor (device='cpu') it may load." if self.on_gpu else ""
                raise EngineError(
                    f"llama.cpp cannot load {self.facts.path}. Its header is sound, so memory may be short "
                    f"or a tensor unknown to this version.{instead}{library.quote(said)}"
                )
        return handle

    def close(self) -> None:
        """Frees the weights, once nobody uses them. Calling it again does nothing."""
        self.lifetime.close()

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Text to token ids, without <bos>.

        Args:
            text: any length.
            special: read control tokens out of the text; otherwise they are plain characters.

        Returns:
            Ids; none for an empty text.

        Raises:
            MessageError: a character of the text is half a surrogate pair.
            EngineError: llama.cpp refuses the text, or the model is closed.
        """
        ids: list[int] = []
        for stretch in self.control.split(text) if special else (text,):
            if isinstance(stretch, int):
                ids.append(stretch)
            else:
                for piece in self.control.apart(stretch):
                    ids += self._read(piece)
        return ids

    def _read(self, text: str) -> list[int]:
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise MessageError(
                f"Character {error.start} of the text, {text[error.start]!r}, is half a surrogate pair: no "
                "character. Decode where it comes from as UTF-8."
            ) from error
        capacity = len(data) + 8  # every token covers at least one byte
        ids = (ctypes.c_int32 * capacity)()
        with self.lifetime:
            n = self._lib.llama_tokenize(self.vocab, data, len(data), ids, capacity, False, False)
        if n < 0:
            raise EngineError(f"llama.cpp cannot tokenize a text of {len(data):,} bytes (returned {n}).")
        return ids[:n]

    def _control_tokens(self) -> ControlTokens:
        shown = {
            text
            for text, i in self.facts.special_tokens.items()
            if self._lib.llama_vocab_get_attr(self.vocab, i) & _USER_DEFINED
        }
        words = {text for text in shown if not ControlTokens.looks_like_one(text)}
        ids = {text: i for text, i in self.facts.special_tokens.items() if text and text not in words}
        return ControlTokens(ids, shown - words)

    def piece(self, token: int) -> bytes:
        """Bytes of one token, maybe part of a character; control tokens appear as written.

        Args:
            token: id in the vocabulary.

        Returns:
            UTF-8, or a part of it.
        """
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self.read_piece(token)
        return piece

    def detokenize(self, ids: Sequence[int], *, special: bool = True) -> str:
        """Token ids to text; bytes that are no UTF-8 become U+FFFD.

        Args:
            ids: token ids.
            special: show control tokens as written; otherwise they are left out.

        Returns:
            The text.

        Raises:
            MessageError: an id is not in the vocabulary.
        """
        self.require_tokens(ids)
        if not special:
            control = set(self.control.ids.values())
            ids = [i for i in ids if i not in control]
        return b"".join(map(self.piece, ids)).decode("utf-8", "replace")

    def require_tokens(self, ids: Sequence[int]) -> None:
        """Checks that ids are in the vocabulary: llama.cpp would end the process on another one.

        Args:
            ids: token ids.

        Raises:
            MessageError: an id is outside.
        """
        for i in ids:
            if not 0 <= i < self.n_vocab:
                raise MessageError(f"Token id {i} is outside the vocabulary (0 to {self.n_vocab - 1}).")

    def ends_reply(self, token: int) -> bool:
        """Whether a drawn token ends the reply (<turn|>, <eos>, <|tool_response>).

        Args:
            token: id in the vocabulary.

        Returns:
            True for those that llama.cpp counts as end of generation.
        """
        with self.lifetime:
            return bool(self._lib.llama_vocab_is_eog(self.vocab, token))

    def token_id(self, text: str) -> int | None:
        """Id of a control token by its text.

        Args:
            text: such as "<|turn>".

        Returns:
            None if this vocabulary lacks it.
        """
        return self.facts.special_tokens.get(text)

    def read_piece(self, token: int) -> bytes:
        """As `piece`, read from llama.cpp each time.

        Args:
            token: id in the vocabulary.

        Returns:
            UTF-8, or a part of it.
        """
        buffer = ctypes.create_string_buffer(256)  # not shared: threads read pieces side by side
        with self.lifetime:
            read = self._lib.llama_token_to_piece
            n = read(self.vocab, token, buffer, len(buffer), 0, True)
            if n < 0:
                buffer = ctypes.create_string_buffer(-n)
                n = read(self.vocab, token, buffer, len(buffer), 0, True)
        return buffer.raw[:n]


def path_bytes(path: Path) -> bytes:
    """A path as llama.cpp wants it: UTF-8 on Windows, the system's bytes elsewhere.

    Args:
        path: of a file.

    Returns:
        Without a zero at the end; ctypes adds it.
    """
    return str(path).encode() if sys.platform == "win32" else os.fsencode(path)
