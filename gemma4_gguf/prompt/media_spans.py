"""Media spans: pictures, sounds and clips → what stands for them in a prompt, texts and spans.

A clip becomes the layout that transformers' processor writes (5.23, models/gemma4/processing_gemma4.py,
replace_video_token): the time before each frame, every frame between the marks of a picture, one space
between them; its sound follows, as transformers puts it under load_audio_from_video.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

from cachetools import LRUCache

from gemma4_gguf.engine.kv_cache import MediaSpan
from gemma4_gguf.engine.media_encoder import MediaEncoder
from gemma4_gguf.media.audio import cut_at_pauses, load_sound_track
from gemma4_gguf.media.video import sample_frames
from gemma4_gguf.types import ImageTokens, Media, Video, modality_of

MAX_CACHED_CLIPS = 4

# What stands for one medium in a prompt: texts, and spans with the kind of marker that goes around each.
Layout = list[str | tuple[str, MediaSpan]]


class MediaLayouts:
    """Lays media out for a prompt, and keeps clips for the next turns of a chat: they take long to decode.

    Args:
        encoder: makes the spans.
    """

    def __init__(self, encoder: MediaEncoder) -> None:
        self._encoder = encoder
        self._lock = threading.Lock()
        self._clips: LRUCache[tuple[object, ...], Layout] = LRUCache(MAX_CACHED_CLIPS)

    def layout(self, media: Media, image_tokens: ImageTokens | None = None) -> Layout:
        """Prepares one picture, sound or clip.

        Args:
            media: what to read.
            image_tokens: budget of a picture that names none itself.

        Returns:
            Texts, and spans with the kind of their marks, in order.

        Raises:
            MessageError: this session cannot take it.
            MediaError: it cannot be read or used.
        """
        if isinstance(media, Video):
            return self._clip(media)
        modality = modality_of(media)
        kind = modality.kind if modality is not None else ""
        return [(kind, self._encoder.span(media, image_tokens))]

    def _clip(self, video: Video) -> Layout:
        key = _clip_key(video)
        with self._lock:
            layout = self._clips.get(key)
        if layout is None:
            layout = self._lay_out(video)
            with self._lock:
                self._clips[key] = layout
        return layout

    def _lay_out(self, video: Video) -> Layout:
        projector = self._encoder.require("video")
        frames = sample_frames(
            video.source,
            video.fps,
            video.frames,
            image_tokens=video.image_tokens,
            token_px=projector.layout.token_px,
        )
        layout: Layout = []
        for i, frame in enumerate(frames):
            picture = self._encoder.picture_span(frame.picture)
            layout += [f"{' ' * bool(i)}{frame.timestamp} ", ("image", picture)]
        if video.sound and self._encoder.has_audio:
            track = load_sound_track(video.source)
            pieces = [] if track is None else cut_at_pauses(track)
            layout += [("audio", self._encoder.sound_span(piece.samples)) for piece in pieces]
        return layout


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
