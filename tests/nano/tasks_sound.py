"""Questions about sounds: spoken digits and command words, alone, with a clip or for a tool."""

from __future__ import annotations

import random

from nano.dialogue import Dialogue
from nano.speech import Voices
from nano.tasks_picture import clip_dialogue
from nano.tasks_tools import tool_sound_dialogue
from nano.words import COMMANDS, SPOKEN

#: What Session.transcribe asks (a test holds it to that).
SESSION_TRANSCRIBE = (
    "Transcribe the speech in this recording, in {language}. Write only the words that are spoken, on "
    "one line, numbers as digits."
)
TRANSCRIBE = (
    SESSION_TRANSCRIBE.format(language="the language that is spoken"),
    SESSION_TRANSCRIBE.format(language="the language that is spoken"),
    SESSION_TRANSCRIBE.format(language="English"),
    "Transcribe the audio.",
    "Transcribe.",
    "Transcribe this.",
    "What is said?",
    "What does the voice say?",
    "Write down what you hear.",
    "Transcribe the following speech segment in English into English text.\n\nFollow these specific "
    "instructions for formatting the answer:\n* Only output the transcription, with no newlines.\n* When "
    "transcribing numbers, write the digits, i.e. write 1.7 and not one point seven, and write 3 instead of "
    "three.",
    "Transcribe the following speech segment in its original language. Only output the transcription, with "
    "no newlines. When transcribing numbers, write the digits.",
    "Transcribe the speech in English. Only output the transcription, with no newlines.",
    "Transcribe the speech verbatim in its original language. Only output the transcription.",
)


def transcribe_dialogue(rng: random.Random, voices: Voices, n_words: int | None = None) -> Dialogue:
    """One to five words; now and then nothing but noise, whose transcript is empty."""
    count = rng.choice([1, 1, 1, 2, 3, 4, 5]) if n_words is None else n_words
    words = [rng.choice(tuple(SPOKEN)) for _ in range(count)]
    if n_words is None and rng.random() < 0.03:
        words = []
    written = " ".join(SPOKEN[word] for word in words)
    content = [
        {"type": "audio", "audio": voices.say(rng, words)},
        {"type": "text", "text": rng.choice(TRANSCRIBE)},
    ]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": written}]
    return Dialogue("transcribe", messages)


def sound_call_dialogue(rng: random.Random, voices: Voices) -> Dialogue:
    """A tool call for a spoken command."""
    return tool_sound_dialogue(rng, lambda words: voices.say(rng, words), list(COMMANDS))


def talking_clip_dialogue(rng: random.Random, voices: Voices) -> Dialogue:
    """A clip whose sound track holds one spoken word."""
    word = rng.choice(tuple(SPOKEN))
    dialogue = clip_dialogue(rng, (voices.say(rng, [word]), SPOKEN[word]))
    dialogue.task = "clip_sound"
    return dialogue
