"""Pictures and sounds → spans of a prompt: prepared, counted, and encoded only when the cache lacks them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from gemma4_gguf.engine.memory import MediaSpan
from gemma4_gguf.engine.projector import Projector
from gemma4_gguf.errors import MessageError
from gemma4_gguf.media.audio import load_audio
from gemma4_gguf.media.image import prepare_image
from gemma4_gguf.messages import Audio, Image, Video
from gemma4_gguf.options import DEFAULT_IMAGE_TOKENS

MAX_CACHED_BYTES = 256 << 20


class MediaEncoder:
    """Turns media into spans and remembers embeddings by content.

    Args:
        projector: None for a text-only session.
        bidirectional_images: soft tokens of one picture see each other in this model.
    """

    def __init__(self, projector: Projector | None, *, bidirectional_images: bool) -> None:
        self._projector = projector
        self._bidirectional = bidirectional_images
        self._cache: OrderedDict[str, np.ndarray] = OrderedDict()
        self._cached_bytes = 0

    @property
    def has_vision(self) -> bool:
        """Pictures can be taken."""
        return self._projector is not None and self._projector.has_vision

    @property
    def has_audio(self) -> bool:
        """Sounds can be taken."""
        return self._projector is not None and self._projector.has_audio

    def span(self, media: Image | Audio | Video, image_tokens: int | None = None) -> MediaSpan:
        """Prepares one picture or sound.

        Args:
            media: what to read.
            image_tokens: budget of a picture that names none itself.

        Raises:
            MessageError: this session cannot take it.
            MediaError: it cannot be read or used.
        """
        if isinstance(media, Image):
            return self._image(media, image_tokens)
        if isinstance(media, Audio):
            return self._audio(media)
        raise MessageError("Videos are not taken yet. Pass frames as Image and the sound as Audio.")

    def _image(self, image: Image, image_tokens: int | None) -> MediaSpan:
        projector = self._require("pictures", "eyes", self.has_vision)
        given = (budget for budget in (image.image_tokens, image_tokens) if budget is not None)
        budget = next(given, DEFAULT_IMAGE_TOKENS)
        prepared = prepare_image(image.source, budget, token_px=projector.layout.token_px)
        key = f"image {prepared.digest}"
        return MediaSpan(
            key=key,
            n_tokens=projector.count_image_tokens(prepared.pixels),
            load=lambda: self._load(key, lambda: projector.encode_image(prepared.pixels)),
            bidirectional=self._bidirectional,
        )

    def _audio(self, audio: Audio) -> MediaSpan:
        projector = self._require("sounds", "ears", self.has_audio)
        samples = load_audio(audio.source, sample_rate_hz=audio.sample_rate_hz)
        key = f"audio {hashlib.sha256(samples.tobytes()).hexdigest()}"
        return MediaSpan(
            key=key,
            n_tokens=projector.count_audio_tokens(samples),
            load=lambda: self._load(key, lambda: projector.encode_audio(samples)),
        )

    def _require(self, media: str, organ: str, able: bool) -> Projector:
        if self._projector is None:
            raise MessageError(
                f"This session takes no {media}: it was opened without a projector. Put the mmproj file of "
                "the model beside it, or pass it as projector=."
            )
        if not able:
            raise MessageError(
                f"This model has no {organ}: its projector takes no {media}. Leave them out, or open a "
                "member that has."
            )
        return self._projector

    def _load(self, key: str, encode: Callable[[], np.ndarray]) -> np.ndarray:
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        embeddings = encode()
        self._cache[key] = embeddings
        self._cached_bytes += embeddings.nbytes
        while self._cached_bytes > MAX_CACHED_BYTES and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return embeddings
