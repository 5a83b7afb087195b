"""Pictures, sounds and clips → what stands for them in a prompt: texts and spans.

Media are prepared and counted at once, and encoded only when the cache lacks them. A clip becomes the layout
that transformers' processor writes (5.23, models/gemma4/processing_gemma4.py, replace_video_token): the time
before each frame, every frame between the marks of a picture, one space between them; its sound follows, as
transformers puts it under load_audio_from_video.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gemma4_gguf.engine.kv_cache import MediaSpan
from gemma4_gguf.engine.projector import Projector
from gemma4_gguf.errors import MessageError
from gemma4_gguf.media.audio import cut_at_pauses, load_audio, load_sound_track
from gemma4_gguf.media.image import PreparedImage, prepare_image
from gemma4_gguf.media.video import sample_frames
from gemma4_gguf.types import DEFAULT_IMAGE_TOKENS, Audio, Image, ImageTokens, Video

MAX_CACHED_BYTES = 256 << 20
MAX_CACHED_CLIPS = 4

# What stands for one medium in a prompt: texts, and spans with the marker that goes around each.
Layout = list[str | tuple[str, MediaSpan]]


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
        self._clips: OrderedDict[tuple[object, ...], Layout] = OrderedDict()

    @property
    def has_vision(self) -> bool:
        """Pictures can be taken."""
        return self._projector is not None and self._projector.has_vision

    @property
    def has_audio(self) -> bool:
        """Sounds can be taken."""
        return self._projector is not None and self._projector.has_audio

    def layout(self, media: Image | Audio | Video, image_tokens: ImageTokens | None = None) -> Layout:
        """Prepares one picture, sound or clip.

        Args:
            media: what to read.
            image_tokens: budget of a picture that names none itself.

        Raises:
            MessageError: this session cannot take it.
            MediaError: it cannot be read or used.
        """
        if isinstance(media, Video):
            return self._video(media)
        return [(type(media).__name__.lower(), self.span(media, image_tokens))]

    def span(self, media: Image | Audio, image_tokens: ImageTokens | None = None) -> MediaSpan:
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
        raise MessageError(f"{type(media).__name__} is no single span. Pass an Image or Audio.")

    def _image(self, image: Image, image_tokens: ImageTokens | None) -> MediaSpan:
        projector = self._require("pictures", "eyes", self.has_vision)
        given = (budget for budget in (image.image_tokens, image_tokens) if budget is not None)
        budget = next(given, DEFAULT_IMAGE_TOKENS)
        layout = projector.layout
        prepared = prepare_image(
            image.source, budget, token_px=layout.token_px, max_side_tokens=layout.max_side_tokens
        )
        return self._picture(prepared)

    def _video(self, video: Video) -> Layout:
        """Kept for the next turns of a chat: a clip takes long to decode."""
        key = _clip_key(video)
        if key in self._clips:
            self._clips.move_to_end(key)
            return self._clips[key]
        projector = self._require("clips", "eyes", self.has_vision)
        frames = sample_frames(
            video.source,
            video.fps,
            video.frames,
            image_tokens=video.image_tokens,
            token_px=projector.layout.token_px,
        )
        layout: Layout = []
        for i, frame in enumerate(frames):
            layout += [f"{' ' * bool(i)}{frame.timestamp} ", ("image", self._picture(frame.picture))]
        if video.sound and self.has_audio:
            track = load_sound_track(video.source)
            pieces = [] if track is None else cut_at_pauses(track)
            layout += [("audio", self._sound(piece.samples)) for piece in pieces]
        self._clips[key] = layout
        if len(self._clips) > MAX_CACHED_CLIPS:
            self._clips.popitem(last=False)
        return layout

    def _picture(self, prepared: PreparedImage) -> MediaSpan:
        projector = self._require("pictures", "eyes", self.has_vision)
        key = f"image {prepared.digest}"
        return MediaSpan(
            key=key,
            n_tokens=projector.count_image_tokens(prepared.pixels),
            load=lambda: self._load(key, lambda: projector.encode_image(prepared.pixels)),
            bidirectional=self._bidirectional,
        )

    def _audio(self, audio: Audio) -> MediaSpan:
        self._require("sounds", "ears", self.has_audio)
        return self._sound(load_audio(audio.source, sample_rate_hz=audio.sample_rate_hz))

    def _sound(self, samples: np.ndarray) -> MediaSpan:
        projector = self._require("sounds", "ears", self.has_audio)
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


def _clip_key(video: Video) -> tuple[object, ...]:
    """Tells clips apart; a file that was written again is another one."""
    source: object = video.source
    if isinstance(video.source, (str, Path)):
        path = Path(video.source).expanduser()
        try:
            facts = path.stat()
            source = (str(path.absolute()), facts.st_mtime_ns, facts.st_size)
        except (OSError, ValueError):  # reading it says what is wrong
            source = str(path)
    else:
        source = hashlib.sha256(video.source).hexdigest()
    return (source, video.fps, video.frames, video.sound, video.image_tokens)
