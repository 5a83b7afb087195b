"""Projector: pictures and sounds → embeddings that the model reads like tokens.

mtmd (llama.cpp's multimodal library) is used for its graphs alone. Pictures come prepared (`media.image`),
so it has nothing to resize; sounds come as one clip (`media.audio`), so it has nothing to cut. The number of
tokens that comes out is compared with what transformers makes, every time.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from gemma4_gguf.engine import library
from gemma4_gguf.engine.compute_thread import aside, compute
from gemma4_gguf.engine.file_watch import FileWatch
from gemma4_gguf.engine.lifetime import LifetimeLock
from gemma4_gguf.engine.model import Model, path_bytes
from gemma4_gguf.engine.projector_patches import GraphFixes
from gemma4_gguf.errors import EngineError, MediaError, PairingError
from gemma4_gguf.files.projector_file import SAMPLES_PER_TOKEN, check_layout
from gemma4_gguf.media.audio import MAX_SAMPLES, MIN_SAMPLES
from gemma4_gguf.media.mel import count_tokens
from gemma4_gguf.types import IMAGE_TOKEN_BUDGETS

MAX_IMAGE_TOKENS = max(IMAGE_TOKEN_BUDGETS)
_OVERFLOW = 1e30


class Projector:
    """Owns an mtmd context, which is freed with the model it was made for.

    Args:
        path: the projector's GGUF file.
        model: loaded model.
        n_threads: CPU threads.
        use_gpu: run on the graphics device, if this build of llama.cpp has one.
        flash_attention: None takes it where it is supported; without it a picture of 1120 tokens needs
            gigabytes.

    Raises:
        GGUFError: the file is damaged, not a Gemma 4 projector, or would end the process.
        PairingError: it makes embeddings of another width than the model reads.
        EngineError: llama.cpp cannot load it.
    """

    def __init__(
        self,
        path: str | Path,
        model: Model,
        *,
        n_threads: int,
        use_gpu: bool = False,
        flash_attention: bool | None = None,
    ) -> None:
        self.layout = check_layout(path)
        facts = self.layout.facts
        if facts.width != model.n_embd:
            raise PairingError(
                f"{facts.path.name} makes embeddings of width {facts.width}; the model takes {model.n_embd}. "
                "Pass the projector made from the same checkpoint."
            )
        self._lib = library.mtmd()
        self._lock = LifetimeLock(model.lifetime)
        self._watch = FileWatch(facts.path, facts.stamp)
        self._lifetime = model.lifetime
        self._fixes = GraphFixes(activation="gemma4v" in facts.types and not self.layout.says_gelu)
        self._lifetime.on_stop(self._fixes.stop)
        with self._lock:
            self._open(model, self._parameters(n_threads, use_gpu, flash_attention))
            self._watch.require_same_file()
        self.n_embd = facts.width
        self.has_vision = bool(self._lib.mtmd_support_vision(self.handle))
        self.has_audio = bool(self._lib.mtmd_support_audio(self.handle))
        if (self.has_vision, self.has_audio) != (facts.has_vision, facts.has_audio):
            self.close()
            raise EngineError(f"llama.cpp cannot use all of {facts.path}. Convert the checkpoint again.")

    @property
    def handle(self) -> Any:
        """The mtmd_context; None once it is freed."""
        return self._handle if self._finalizer.alive else None

    def count_image_tokens(self, pixels: np.ndarray) -> int:
        """Soft tokens of a prepared picture.

        Args:
            pixels: uint8 [height, width, 3].

        Returns:
            1 to MAX_IMAGE_TOKENS.

        Raises:
            MediaError: it has no eyes, or the picture is not prepared or too long for it.
        """
        if not self.has_vision:
            raise MediaError(
                f"{self.layout.facts.path.name} has no eyes. Leave the picture out, or pass another "
                "projector."
            )
        step, most = self.layout.token_px, self.layout.max_side_tokens
        height, width = pixels.shape[:2] if pixels.ndim == 3 else (0, 0)
        if (
            pixels.dtype != np.uint8
            or pixels.shape[2:] != (3,)
            or not height
            or height % step
            or width % step
        ):
            raise MediaError(
                f"These pixels are {pixels.dtype} {list(pixels.shape)}; expected uint8 [height, width, 3] "
                f"with sides that are multiples of {step}, as prepare_image returns them."
            )
        rows, columns = height // step, width // step
        if max(rows, columns) > most:
            raise MediaError(
                f"The picture is {columns} by {rows} soft tokens; this projector knows {most} places along a "
                "side. Crop the picture, or take a smaller image_tokens."
            )
        if rows * columns > MAX_IMAGE_TOKENS:
            raise MediaError(
                f"The picture has {rows * columns} soft tokens, at most {MAX_IMAGE_TOKENS} are possible. "
                "Take a smaller image_tokens."
            )
        return rows * columns

    def count_audio_tokens(self, samples: np.ndarray) -> int:
        """Soft tokens of a clip.

        Args:
            samples: float32 [n] at 16 kHz.

        Returns:
            At least 1; 25 a second.

        Raises:
            MediaError: it has no ears, or the clip is too short or too long.
        """
        if not self.has_audio:
            raise MediaError(
                f"{self.layout.facts.path.name} has no ears. Leave the sound out, or use an E2B, E4B or 12B."
            )
        if samples.dtype != np.float32 or samples.ndim != 1:
            raise MediaError(f"The samples are {samples.dtype} {list(samples.shape)}; expected float32 [n].")
        if not MIN_SAMPLES <= len(samples) <= MAX_SAMPLES:
            raise MediaError(
                f"The clip has {len(samples):,} samples; expected {MIN_SAMPLES} to {MAX_SAMPLES:,} (30 "
                "seconds). Cut it into pieces, or use transcribe."
            )
        if self.layout.has_conformer:
            return count_tokens(len(samples))
        return -(-len(samples) // SAMPLES_PER_TOKEN)

    def encode_image(self, pixels: np.ndarray) -> np.ndarray:
        """Embeddings of a prepared picture.

        Args:
            pixels: uint8 [height, width, 3] from `media.image.prepare_image`.

        Returns:
            float32 [n_tokens, n_embd], rows of the picture from the top, each from the left.

        Raises:
            MediaError: no eyes, or the picture is not prepared or too long.
            EngineError: llama.cpp failed.
        """
        n_tokens = self.count_image_tokens(pixels)
        pixels = np.ascontiguousarray(pixels)
        height, width = pixels.shape[:2]
        pointer = pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        with self._lock:
            bitmap = self._lib.mtmd_bitmap_init(width, height, pointer)
            return self._encode(bitmap, self._lib.MTMD_INPUT_CHUNK_TYPE_IMAGE, n_tokens)

    def encode_audio(self, samples: np.ndarray) -> np.ndarray:
        """Embeddings of one clip.

        Args:
            samples: float32 [n], 16 kHz mono in [-1, 1], 161 samples to 30 seconds.

        Returns:
            float32 [n_tokens, n_embd], 25 tokens a second.

        Raises:
            MediaError: no ears, or the clip is too short or too long.
            EngineError: llama.cpp failed.
        """
        n_tokens = self.count_audio_tokens(samples)
        samples = np.ascontiguousarray(samples)
        pointer = samples.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        with self._lock:
            bitmap = self._lib.mtmd_bitmap_init_from_audio(len(samples), pointer)
            if not self.layout.has_conformer:
                return self._encode(bitmap, self._lib.MTMD_INPUT_CHUNK_TYPE_AUDIO, n_tokens)
            self._fixes.expect_sound(samples)
            try:
                return self._encode(bitmap, self._lib.MTMD_INPUT_CHUNK_TYPE_AUDIO, n_tokens)
            finally:
                self._fixes.forget()

    def close(self) -> None:
        """Frees everything. Calling it again does nothing."""
        if not self._lifetime.is_over:
            with self._lock:
                self._finalizer()

    def _parameters(self, n_threads: int, use_gpu: bool, flash_attention: bool | None) -> Any:
        llama = library.llama()
        params = self._lib.mtmd_context_params_default()
        params.use_gpu = use_gpu
        params.print_timings = False
        params.n_threads = n_threads
        params.warmup = False  # buffers are made when the first picture comes, in its size
        # A budget of 70 gives fewer tokens for most shapes; llama.cpp must not blow such a picture up.
        params.image_min_tokens = 1
        params.image_max_tokens = MAX_IMAGE_TOKENS
        params.flash_attn_type = {
            None: llama.LLAMA_FLASH_ATTN_TYPE_AUTO,
            True: llama.LLAMA_FLASH_ATTN_TYPE_ENABLED,
            False: llama.LLAMA_FLASH_ATTN_TYPE_DISABLED,
        }[flash_attention]
        params.cb_eval = self._fixes.callback
        return params

    def _open(self, model: Model, params: Any) -> None:
        """Loads the file on another thread: Ctrl-C stops it and leaves nothing."""
        stopped = threading.Event()
        self._lifetime.on_stop(stopped.set)
        params.progress_callback = self._lib.mtmd_progress_callback(lambda *_: not stopped.is_set())
        path = path_bytes(self.layout.facts.path)

        def load() -> Any:
            handle = self._lib.mtmd_init_from_file(path, model.handle, params)
            if handle:
                self._handle = handle
                self._finalizer = weakref.finalize(self, self._lib.mtmd_free, handle)
                self._lifetime.on_close(self._finalizer)
            return handle

        with library.complaints() as said:
            if not aside(load, stopped.set):
                self._lifetime.require()
                raise EngineError(
                    f"llama.cpp cannot load {self.layout.facts.path}: memory may be short."
                    f"{library.quote(said)}"
                )

    def _encode(self, bitmap: Any, kind: int, n_tokens: int) -> np.ndarray:
        """Runs one bitmap, which it frees, and copies the result. Needs the lock."""
        lib = self._lib
        chunks = lib.mtmd_input_chunks_init()
        try:
            if self.handle is None:
                raise EngineError("The projector is closed. Open the session again.")
            with library.complaints() as said:
                # Not on this thread either: it logs, and a callback would lose a Ctrl-C.
                chunk = compute(lambda: self._only_media_chunk(bitmap, chunks, kind, said), self._fixes.stop)
                found = lib.mtmd_input_chunk_get_n_tokens(chunk)
                if found != n_tokens:
                    raise EngineError(
                        f"llama.cpp makes {found} tokens of this, transformers {n_tokens}: this version of "
                        "llama-cpp-python prepares media in another way. Install 0.3.36."
                    )
                self._watch.require()
                self._fixes.begin()
                self._lifetime.require()
                status = compute(lambda: lib.mtmd_encode_chunk(self._handle, chunk), self._fixes.stop)
                self._fixes.raise_interrupt()
                if status != 0:
                    self._lifetime.require()
                    raise EngineError(f"llama.cpp failed to encode the media.{library.quote(said)}")
            output = lib.mtmd_get_output_embd(self.handle)
            embeddings = np.ctypeslib.as_array(output, (n_tokens, self.n_embd)).copy()
        finally:
            lib.mtmd_input_chunks_free(chunks)
            lib.mtmd_bitmap_free(bitmap)
        # Clamps inside the graph turn NaN and infinity into the largest number there is.
        if not np.abs(embeddings).max() < _OVERFLOW:
            raise EngineError(
                f"{self.layout.facts.path.name} overflowed on this input. Use a projector of type BF16 or "
                "F32."
            )
        return embeddings

    def _only_media_chunk(self, bitmap: Any, chunks: Any, kind: int, said: Any) -> Any:
        """Prepares a bitmap: the chunks around it are the begin and end marks, which the template writes."""
        lib = self._lib
        marker = lib.mtmd_default_marker()
        text = lib.mtmd_input_text()
        text.text, text.text_len = marker, len(marker)
        text.add_special, text.parse_special = False, True
        bitmaps = (ctypes.c_void_p * 1)(bitmap)
        status = lib.mtmd_tokenize(self.handle, chunks, ctypes.byref(text), bitmaps, 1)
        if status != 0:
            raise EngineError(f"llama.cpp cannot prepare the media (status {status}).{library.quote(said)}")
        every = [lib.mtmd_input_chunks_get(chunks, i) for i in range(lib.mtmd_input_chunks_size(chunks))]
        media = [chunk for chunk in every if lib.mtmd_input_chunk_get_type(chunk) == kind]
        if len(media) != 1:
            raise EngineError(
                f"llama.cpp cut the media into {len(media)} pieces, expected one. Install "
                "llama-cpp-python 0.3.36."
            )
        return media[0]
