"""Media encoder: prepared pictures and sounds → spans of soft tokens, their embeddings kept by content.

Media are counted at once, and encoded only when the cache lacks them.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable

import numpy as np
from cachetools import LRUCache

from gemma4_gguf.engine.kv_cache import MediaSpan
from gemma4_gguf.engine.projector import Projector
from gemma4_gguf.errors import MessageError
from gemma4_gguf.media.audio import load_audio
from gemma4_gguf.media.image import PreparedImage, prepare_image
from gemma4_gguf.types import DEFAULT_IMAGE_TOKENS, MODALITIES, Audio, Image, ImageTokens

MAX_CACHED_BYTES = 256 << 20


class MediaEncoder:
    """Turns media into spans and remembers embeddings by content.

    Args:
        projector: None for a text-only session.
        bidirectional_images: soft tokens of one picture see each other in this model.
        why_no_projector: what to say to media without one, in a sentence.
    """

    def __init__(
        self, projector: Projector | None, *, bidirectional_images: bool, why_no_projector: str = ""
    ) -> None:
        self._projector = projector
        self._why_no_projector = why_no_projector
        self._bidirectional = bidirectional_images
        self._lock = threading.Lock()
        self._cache: LRUCache[str, np.ndarray] = LRUCache(MAX_CACHED_BYTES, lambda array: array.nbytes)

    @property
    def has_vision(self) -> bool:
        """Pictures can be taken."""
        return self._projector is not None and self._projector.has_vision

    @property
    def has_audio(self) -> bool:
        """Sounds can be taken."""
        return self._projector is not None and self._projector.has_audio

    def span(self, media: Image | Audio, image_tokens: ImageTokens | None = None) -> MediaSpan:
        """Prepares one picture or sound.

        Args:
            media: what to read.
            image_tokens: budget of a picture that names none itself.

        Returns:
            A span; its embeddings are made when they are first needed.

        Raises:
            MessageError: this session cannot take it.
            MediaError: it cannot be read or used.
        """
        if isinstance(media, Image):
            layout = self.require("image").layout
            given = (budget for budget in (media.image_tokens, image_tokens) if budget is not None)
            prepared = prepare_image(
                media.source,
                next(given, DEFAULT_IMAGE_TOKENS),
                token_px=layout.token_px,
                max_side_tokens=layout.max_side_tokens,
            )
            return self.picture_span(prepared)
        if isinstance(media, Audio):
            self.require("audio")
            return self.sound_span(load_audio(media.source, sample_rate_hz=media.sample_rate_hz))
        raise MessageError(f"{type(media).__name__} is no single span. Pass an Image or Audio.")

    def picture_span(self, prepared: PreparedImage) -> MediaSpan:
        """The span of a picture that is prepared already.

        Args:
            prepared: for this projector.

        Returns:
            A span; its embeddings are made when they are first needed.
        """
        projector = self.require("image")
        key = f"image {prepared.digest}"
        return MediaSpan(
            key=key,
            n_tokens=projector.count_image_tokens(prepared.pixels),
            load=lambda: self._load(key, lambda: projector.encode_image(prepared.pixels)),
            bidirectional=self._bidirectional,
        )

    def sound_span(self, samples: np.ndarray) -> MediaSpan:
        """The span of a sound.

        Args:
            samples: float32 [n], 16 kHz mono, of 30 seconds at most.

        Returns:
            A span; its embeddings are made when they are first needed.
        """
        projector = self.require("audio")
        key = f"audio {hashlib.sha256(samples.tobytes()).hexdigest()}"
        return MediaSpan(
            key=key,
            n_tokens=projector.count_audio_tokens(samples),
            load=lambda: self._load(key, lambda: projector.encode_audio(samples)),
        )

    def require(self, kind: str) -> Projector:
        """The projector, if it takes a kind of media.

        Args:
            kind: "image", "audio" or "video".

        Returns:
            The projector.

        Raises:
            MessageError: there is none, or it does not.
        """
        media = f"{MODALITIES[kind].noun}s"
        if self._projector is None:
            raise MessageError(
                f"This session takes no {media}: it was opened without a projector. {self._why_no_projector}"
            )
        if not (self.has_audio if kind == "audio" else self.has_vision):
            organ = "ears" if kind == "audio" else "eyes"
            raise MessageError(
                f"This model has no {organ}: its projector takes no {media}. Leave them out, or open a "
                "member that has."
            )
        return self._projector

    def _load(self, key: str, encode: Callable[[], np.ndarray]) -> np.ndarray:
        with self._lock:
            embeddings = self._cache.get(key)
        if embeddings is None:
            embeddings = encode()
            if embeddings.nbytes <= self._cache.maxsize:
                with self._lock:
                    self._cache[key] = embeddings
        return embeddings
