"""Ears: sounds of any length, cut at pauses, asked word by word, with their times."""

from __future__ import annotations

import json
import logging
import tracemalloc
from collections.abc import Callable, Generator, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import clip
from hypothesis import given, settings
from hypothesis import strategies as st
from media_samples import speech, wav

from gemma4_gguf import Audio, Chunk, Reply, Segment, Session, format_segments
from gemma4_gguf.errors import MediaError, MessageError, OptionError
from gemma4_gguf.media.audio import (
    MAX_SAMPLES,
    MIN_SAMPLES,
    Piece,
    cut_at_pauses,
    load_audio,
    load_pieces,
    sound_duration_s,
)
from gemma4_gguf.tasks.speech import Question, join_texts
from gemma4_gguf.types import Part

RATE = 16_000


def question(language: str | None, translate_to: str | None) -> str:
    return Question(language=language, translate_to=translate_to).text


class Writes(Session):
    """Numbers the pieces, and remembers what it was asked."""

    def __init__(self, *answers: str, finish_reason: str = "stop") -> None:
        self.answers = list(answers)
        self.finish_reason: Any = finish_reason
        self.asked: list[tuple[float, str, dict[str, Any]]] = []

    def stream(self, *parts: Part, **options: Any) -> Generator[Chunk, None, None]:
        sound, prompt = parts
        assert isinstance(sound, Audio) and isinstance(sound.source, np.ndarray) and isinstance(prompt, str)
        self.asked.append((len(sound.source) / RATE, prompt, options))
        text = self.answers[len(self.asked) - 1] if self.answers else f"piece {len(self.asked)}"
        reply = Reply(text, finish_reason=self.finish_reason)
        return (chunk for chunk in (Chunk("text", text), Chunk("end", reply=reply)))

    def ask(self, *parts: Part, **options: Any) -> Reply:
        raise NotImplementedError


# Pieces


def same(found: list[Piece], expected: list[Piece]) -> bool:
    starts = [piece.start_s for piece in found] == [piece.start_s for piece in expected]
    pairs = zip(found, expected, strict=True)
    return starts and all(np.array_equal(a.samples, b.samples) for a, b in pairs)


@pytest.mark.parametrize("max_s", [30, 10, 7.3, 1])
@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_pieces_of_a_file_are_those_of_the_whole_sound(max_s: float, rate: int) -> None:
    content = wav(np.tile(speech(8, 19, 4, 25, 9), 2), rate)
    whole = load_audio(content, max_s=None)
    assert same(list(load_pieces(content, max_s=max_s)), cut_at_pauses(whole, max_s=max_s))


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(MIN_SAMPLES, 4 * RATE),
    extra=st.sampled_from([-1, 0, 1, MIN_SAMPLES - 1, MIN_SAMPLES, MIN_SAMPLES + 1]),
    block=st.integers(100, 3 * RATE),
)
def test_cutting_is_the_same_for_any_blocks(n: int, extra: int, block: int) -> None:
    from gemma4_gguf.media.audio import _cut

    samples = np.random.default_rng(n).normal(0, 0.1, max(MIN_SAMPLES, n // RATE * RATE + extra))
    samples = samples.astype(np.float32)
    pieces = cut_at_pauses(samples, max_s=1)
    blocks = iter([samples[k : k + block] for k in range(0, len(samples), block)])
    assert same(list(_cut(blocks, RATE)), pieces)
    assert np.array_equal(np.concatenate([piece.samples for piece in pieces]), samples)
    assert all(MIN_SAMPLES <= len(piece.samples) <= RATE for piece in pieces)


def test_a_long_file_is_never_held_whole() -> None:
    content = wav(np.tile(speech(20, 20), 15))  # ten minutes: 38 MB of float32
    n = 0
    tracemalloc.start()
    for piece in load_pieces(content):
        n += len(piece.samples)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n / RATE == pytest.approx(606, abs=1)
    assert peak < 16e6, "bytes"


def test_durations(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(wav(speech(3)))
    assert sound_duration_s(tmp_path / "x.wav") == pytest.approx(3)
    assert sound_duration_s(clip(10, 10, sound=True)) == pytest.approx(1, abs=0.2)
    assert sound_duration_s(np.zeros(800, np.float32), 8000) == 0.1


# Transcripts


def test_segments_follow_the_pauses() -> None:
    lengths = (14, 13, 12, 16, 5)
    model = Writes()
    segments = list(model.transcribe_segments(speech(*lengths)))
    assert [segment.text for segment in segments] == [f"piece {i}" for i in range(1, len(segments) + 1)]
    ends = np.cumsum(lengths) + 0.4 * np.arange(len(lengths)) + 0.2
    for segment in segments[:-1]:
        assert np.abs(ends - segment.end_s).min() < 0.3, "the cut is in a pause"
    assert segments[0].start_s == 0 and segments[-1].end_s == pytest.approx(61.6)
    assert all(a.end_s == b.start_s for a, b in pairwise(segments))
    assert all(length <= 30 for length, _, _ in model.asked)


def test_every_piece_is_asked_the_same_without_a_thought() -> None:
    model = Writes()
    text = model.transcribe(Audio(speech(20, 20)), language="de", seed=3)
    assert text == "piece 1 piece 2"
    for length, prompt, options in model.asked:
        assert prompt == question("German", None) and "German" in prompt
        assert options == {"temperature": 0, "seed": 3, "max_tokens": 64 + int(20 * length)}
    model = Writes()
    model.transcribe(speech(2), max_tokens=7, temperature=0.4)
    assert model.asked[0][2] == {"max_tokens": 7, "temperature": 0.4}


def test_questions() -> None:
    assert "{" not in "".join(question(a, b) for a in (None, "ja") for b in (None, "pt-BR"))
    assert "Japanese" in question("ja", None) and "Portuguese" in question(None, "pt-BR")
    both = question("Swiss German", "en")
    assert "from Swiss German into English" in both and both.startswith("Translate")
    for wrong in ("", "xx", "7", "de\nIgnore", "a" * 99):
        with pytest.raises(OptionError, match="is no language"):
            question(wrong, None)
    model = Writes()
    model.transcribe(speech(2), prompt="Was wird gesagt?")
    assert model.asked[0][1] == "Was wird gesagt?"
    with pytest.raises(OptionError, match="belong into it"):
        model.transcribe(speech(2), prompt="Was?", language="de")


def test_what_is_said_comes_on_one_line_and_nothing_gives_nothing() -> None:
    model = Writes(" Guten\n Tag, ", "", "Hallo.")
    segments = list(model.transcribe_segments(speech(25, 20, 25), max_s=30))
    assert [segment.text for segment in segments] == ["Guten Tag,", "Hallo."]
    assert segments[1].start_s > segments[0].end_s


def test_silent_pieces_are_not_asked_about() -> None:
    sound = np.concatenate([speech(20), np.zeros(50 * RATE, np.float32), speech(20)])
    model = Writes()
    segments = list(model.transcribe_segments(sound))
    assert 2 <= len(model.asked) < len(cut_at_pauses(sound))
    assert segments[0].start_s == 0 and segments[-1].end_s == pytest.approx(90)


def test_segments_come_while_the_sound_is_read() -> None:
    model = Writes()
    segments = model.transcribe_segments(wav(speech(25, 25, 25, 25)))
    assert len(model.asked) == 1, "the first question is checked, no other is asked"
    next(segments)
    assert len(model.asked) == 1
    next(segments)
    assert len(model.asked) == 2
    segments.close()
    assert len(model.asked) == 2


def test_a_piece_that_is_cut_off_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Writes("la " * 9, finish_reason="length").transcribe(speech(3))
    assert "from 0.0 s on was cut off" in caplog.text


REFUSED: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "missing": ("no.wav", {}, MediaError, "does not exist"),
    "silent": (np.zeros(70 * RATE, np.float32), {}, MediaError, "is silent"),
    "short": (np.ones(99, np.float32), {}, MediaError, "99 samples"),
    "no sound": (clip(3, 3), {}, MediaError, "no sound track"),
    "integers": (np.full(RATE, 900.0), {}, MediaError, "Divide"),
    "not a number": (np.full(RATE, np.nan), {}, MediaError, "no numbers"),
    "too long a piece": (speech(2), {"max_s": 31}, MediaError, "1 to 30"),
    "rate": (Audio(speech(2), sample_rate_hz=3), {}, MediaError, "sample_rate_hz"),
    "language": (speech(2), {"language": "??"}, OptionError, "is no language"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_said_by_the_call(name: str) -> None:
    source, options, error, words = REFUSED[name]
    model = Writes()
    with pytest.raises(error, match=words):
        model.transcribe_segments(source, **options)
    assert not model.asked


def test_joining() -> None:
    assert join_texts(["Guten Tag.", "", "Wie geht's?"]) == "Guten Tag. Wie geht's?"
    assert join_texts(["今日は", "いい天気", "OK", "です。"]) == "今日はいい天気 OK です。"
    assert join_texts(["안녕", "하세요"]) == "안녕 하세요"
    assert join_texts([]) == ""


# A session


@pytest.fixture(scope="module", params=["e2b", "12b"])
def hearing(request: pytest.FixtureRequest, converted: Callable[..., dict[str, Path]]) -> Iterator[Session]:
    files = converted(request.param)
    with Session(files["model"], projector=files["projector"], n_ctx=1024, n_threads=2) as opened:
        yield opened


def test_a_session_hears_pieces_as_clips(hearing: Session) -> None:
    sound = speech(9, 9)
    options: dict[str, Any] = {"max_tokens": 6, "max_s": 10}
    segments = list(hearing.transcribe_segments(sound, **options))
    expected = []
    for piece in cut_at_pauses(sound, max_s=10):
        reply = hearing.ask(Audio(piece.samples), question(None, None), temperature=0, max_tokens=6)
        expected.append(Segment(piece.start_s, piece.end_s, " ".join(reply.text.split())))
    assert segments == [segment for segment in expected if segment.text]
    assert hearing.transcribe(wav(sound), **options) == join_texts(segment.text for segment in segments)


def test_errors_of_a_session_come_with_the_call(
    hearing: Session, converted: Callable[..., dict[str, Path]]
) -> None:
    with pytest.raises(OptionError, match="temperature"):
        hearing.transcribe_segments(speech(1), temperature=-1)
    files = converted("26b")
    with (
        Session(files["model"], projector=files["projector"], n_ctx=64, n_threads=2) as deaf,
        pytest.raises(MessageError, match="no ears"),
    ):
        deaf.transcribe_segments(speech(1))
    assert hearing.ask("hello", max_tokens=2).usage.completion_tokens <= 2


# Subtitles

SAID = [
    Segment(0, 9.9996, "Good morning, and welcome to this rather long introduction to <nothing & all>."),
    Segment(3599.5, 3725.25, "今日はいい天気ですね、皆さんはどこへ行きましょうか。"),
]


def written(kind: str, segments: list[Segment]) -> str:
    return "".join(format_segments(segments, kind))


def test_srt() -> None:
    assert written("srt", SAID) == (
        "1\n00:00:00,000 --> 00:00:10,000\nGood morning, and welcome to this rather\nlong introduction to "
        "<nothing & all>.\n\n2\n00:59:59,500 --> 01:02:05,250\n今日はいい天気ですね、皆さんはどこへ行きま"
        "\nしょうか。\n\n"
    )


def test_vtt() -> None:
    text = written("vtt", SAID)
    assert text.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:10.000\nGood morning")
    assert "&lt;nothing &amp; all&gt;" in text.replace("\n", " ") and "-->" in text
    assert text.count("\n\n") == 3


def test_txt_and_json() -> None:
    assert written("txt", SAID) == "".join(f"{segment.text}\n" for segment in SAID)
    rows = json.loads(written("json", SAID))
    assert rows[0] == {"start_s": 0, "end_s": 10.0, "text": SAID[0].text} and len(rows) == 2
    assert written("json", []) == "[]\n" and json.loads(written("json", SAID[:1]))[0]["end_s"] == 10
    assert [written(kind, []) for kind in ("txt", "srt", "vtt")] == ["", "", "WEBVTT\n\n"]


@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"]), max_size=60), max_size=4))
def test_no_cue_breaks_its_file(texts: list[str]) -> None:
    segments = [Segment(k, k + 1, " ".join(text.split())) for k, text in enumerate(texts)]
    blocks = written("srt", segments).split("\n\n")
    assert len(blocks) == len(segments) + 1 and blocks[-1] == ""
    assert json.loads(written("json", segments)) == [
        {"start_s": s.start_s, "end_s": s.end_s, "text": s.text} for s in segments
    ]


def test_unknown_formats_list_the_known() -> None:
    with pytest.raises(OptionError, match="txt, srt, vtt, json"):
        format_segments(SAID, "doc")
    assert MAX_SAMPLES == 30 * RATE
