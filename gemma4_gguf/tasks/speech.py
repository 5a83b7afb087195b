"""Speech transcription: sounds of any length → text, with the time of every piece.

A model hears 30 seconds at once. What is longer is cut at pauses, and each piece is asked for word by word:
an instruction of the user's own, repeated for every piece, makes models answer instead of writing down.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import Unpack

from gemma4_gguf.errors import OptionError
from gemma4_gguf.media.audio import MAX_CLIP_S, SAMPLE_RATE_HZ, Piece, is_silent, load_pieces
from gemma4_gguf.options import TurnOptions
from gemma4_gguf.tasks.asks import Asks, careful
from gemma4_gguf.tasks.languages import is_wide, language_name
from gemma4_gguf.types import Audio, Chunk, Reply, Segment

if TYPE_CHECKING:
    import numpy as np

    SoundSource = Audio | str | Path | bytes | np.ndarray

TRANSCRIBE_PROMPT = (
    "Transcribe the speech in this recording, in {language}. Write only the words that are spoken, on "
    "one line, numbers as digits."
)
TRANSLATE_PROMPT = (
    "Translate the speech in this recording{source} into {target}. Write only the translation, on one line, "
    "numbers as digits."
)
SPOKEN_LANGUAGE = "the language that is spoken"
# Fast speech has 5 words a second, and words of some scripts many tokens.
TOKENS_PER_S, SPARE_TOKENS = 20, 64

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of every piece of a sound.

    Args:
        language: what is spoken, "German" or "de"; None leaves it to the model.
        translate_to: write it in this language instead.
        prompt: instead of the usual question.
    """

    language: str | None = None
    translate_to: str | None = None
    prompt: str | None = None

    @property
    def text(self) -> str:
        """The words of the question.

        Raises:
            OptionError: a language is no name, or one is given beside a prompt.
        """
        if self.prompt is not None:
            if self.language is not None or self.translate_to is not None:
                raise OptionError(
                    "prompt= replaces the question, so language= and translate_to= belong into it."
                )
            return self.prompt
        spoken = None if self.language is None else language_name(self.language)
        if self.translate_to is None:
            return TRANSCRIBE_PROMPT.replace("{language}", spoken or SPOKEN_LANGUAGE)
        source = "" if spoken is None else f" from {spoken}"
        target = language_name(self.translate_to)
        return TRANSLATE_PROMPT.replace("{source}", source).replace("{target}", target)


def transcribe_segments(
    session: Asks,
    audio: SoundSource,
    question: Question,
    *,
    max_s: float = MAX_CLIP_S,
    **options: Unpack[TurnOptions],
) -> Generator[Segment, None, None]:
    """Segments of a sound: see `Session.transcribe_segments`.

    Args:
        session: that hears it.
        audio: a sound of any length.
        question: what is asked of every piece.
        max_s: longest piece, 1 to 30 seconds.
        options: as for `Session.ask`.

    Returns:
        Segments that follow each other.
    """
    prompt = question.text
    audio = audio if isinstance(audio, Audio) else Audio(audio)
    pieces = load_pieces(audio.source, sample_rate_hz=audio.sample_rate_hz, max_s=max_s)
    asked = _ask_each(session, pieces, prompt, options)
    first = next(asked)  # raises what is wrong with the call; a sound without a word to hear is one, too
    return _segments(chain([first], asked))


def join_texts(texts: Iterable[str]) -> str:
    """Joins the texts of pieces with spaces, but for scripts that write none.

    Args:
        texts: in order; empty ones are fine.

    Returns:
        One text.
    """
    joined = ""
    for text in texts:
        close = bool(joined) and bool(text) and _is_spaceless(joined[-1]) and _is_spaceless(text[0])
        joined += text if close or not joined or not text else f" {text}"
    return joined


def _ask_each(
    session: Asks, pieces: Iterator[Piece], prompt: str, options: TurnOptions
) -> Iterator[tuple[Piece, Iterator[Chunk]]]:
    """Every piece with something to hear, and the reply to it, not yet drawn."""
    for piece in pieces:
        if not is_silent(piece.samples):
            limit = SPARE_TOKENS + int(TOKENS_PER_S * len(piece.samples) / SAMPLE_RATE_HZ)
            yield piece, session.stream(Audio(piece.samples), prompt, **careful(options, limit))


def _segments(asked: Iterable[tuple[Piece, Iterator[Chunk]]]) -> Generator[Segment, None, None]:
    for piece, chunks in asked:
        reply = next((chunk.reply for chunk in chunks if chunk.reply is not None), Reply())
        if reply.finish_reason == "length":
            _log.warning("What is said from %.1f s on was cut off.", piece.start_s)
        text = " ".join(reply.text.split())
        if text:
            yield Segment(piece.start_s, piece.end_s, text)


def _is_spaceless(character: str) -> bool:
    """Whether a character is of a script without spaces: Chinese or Japanese, but not Korean."""
    return is_wide(character) and not "가" <= character <= "힣"
