"""The mix of tasks: what one training batch of a kind holds, and the fresh samples of the evaluation.

Batches are of one kind (text, picture, sound, clip), so that little is padded; a training step takes one of
each. :data:`EVALUATION` lists the tasks of the model card.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from nano.dialogue import Dialogue
from nano.speech import Voices
from nano.tasks_picture import (
    clip_dialogue,
    clip_questions,
    page_questions,
    read_dialogue,
    scene_dialogue,
    scene_questions,
)
from nano.tasks_sound import sound_call_dialogue, talking_clip_dialogue, transcribe_dialogue
from nano.tasks_text import (
    copy_dialogue,
    count_on_dialogue,
    extract_dialogue,
    memory_dialogue,
    sum_dialogue,
    talk_dialogue,
    talk_pairs,
)
from nano.tasks_tools import tool_dialogue, tool_picture_dialogue

KINDS = ("text", "picture", "sound", "clip")

#: With the thinking switch on every task starts with a thought; these are the short ones.
THOUGHTS = {
    "read": "The picture shows a text.",
    "transcribe": "I write down the words that I hear.",
    "tool_sound": "The voice gives a command.",
    "tool_picture": "I look for the place.",
    "clip": "I compare the first and the last frame.",
    "clip_sound": "I compare the first and the last frame and listen.",
    "memory": "The answer is in the conversation.",
    "copy": "I repeat the words.",
    "count_on": "One number after the other.",
    "extract": "The values are in the sentence.",
    "tool_none": "No tool is needed.",
}
THINKING_SHARE = 0.08
SMALL_SHARE = 0.8  # of the easy picture batches


def with_thought(rng: random.Random, dialogue: Dialogue) -> Dialogue:
    """Switches thinking on for a few dialogues of the tasks that have no thought of their own."""
    thought = THOUGHTS.get(dialogue.task)
    if thought is not None and not dialogue.thinking and rng.random() < THINKING_SHARE:
        dialogue.thinking = True
        dialogue.messages[-1]["thinking"] = thought
    return dialogue


class Mix:
    """Draws training dialogues of a kind.

    Args:
        voices: the training voices.
        large_pictures: share of picture batches at 280 soft tokens instead of 70, past the start.
    """

    def __init__(self, voices: Voices, large_pictures: float = 0.0) -> None:
        self.voices = voices
        self.large_pictures = large_pictures
        self.easy = False  # the start of the curriculum: few objects, few words
        self.image_tokens = 70  # of the pictures of packed rows
        self.pairs = talk_pairs(held_out=False)

    def text(self, rng: random.Random) -> Dialogue:
        """Words alone."""
        makers: list[tuple[float, Callable[[], Dialogue]]] = [
            (2.5, lambda: sum_dialogue(rng)),
            (2.5, lambda: talk_dialogue(rng, self.pairs, rng.choice([1, 1, 2, 3]))),
            (4.0, lambda: tool_dialogue(rng)),
            (1.0, lambda: memory_dialogue(rng)),
            (1.0, lambda: copy_dialogue(rng)),
            (0.5, lambda: count_on_dialogue(rng)),
            (1.0, lambda: extract_dialogue(rng)),
        ]
        return rng.choices([make for _, make in makers], [weight for weight, _ in makers])[0]()

    def picture(self, rng: random.Random, image_tokens: int = 70) -> Dialogue:
        """One picture and one or more questions."""
        draw = rng.random()
        if self.easy:
            if draw < 0.1:
                return read_dialogue(rng, image_tokens)
            return scene_dialogue(rng, n_turns=4, image_tokens=image_tokens, easy=True)
        if draw < 0.12:
            return read_dialogue(rng, image_tokens)
        if draw < 0.24:
            return rng.choice(page_questions(rng, image_tokens))
        if draw < 0.34:
            return tool_picture_dialogue(rng, image_tokens)
        return scene_dialogue(rng, n_turns=rng.choice([1, 2, 3, 4]), image_tokens=image_tokens)

    def sound(self, rng: random.Random) -> Dialogue:
        """One sound."""
        if self.easy:
            return transcribe_dialogue(rng, self.voices, rng.choice([1, 1, 2]))
        if rng.random() < 0.4:
            return sound_call_dialogue(rng, self.voices)
        return transcribe_dialogue(rng, self.voices)

    def clip(self, rng: random.Random) -> Dialogue:
        """One clip, half of them with a voice."""
        return talking_clip_dialogue(rng, self.voices) if rng.random() < 0.5 else clip_dialogue(rng)

    def texts(self, rng: random.Random) -> list[Dialogue]:
        """The next block of packed rows: one dialogue."""
        return [with_thought(rng, self.text(rng))]

    def pictures(self, rng: random.Random) -> list[Dialogue]:
        """The next block: questions about one picture side by side, or one dialogue about it."""
        draw = rng.random() * (4.0 if self.easy else 1.0)
        if draw < 0.18:
            return [with_thought(rng, read_dialogue(rng, self.image_tokens))]
        if draw < 0.4:
            return page_questions(rng, self.image_tokens)
        if draw < 0.48:
            return [with_thought(rng, tool_picture_dialogue(rng, self.image_tokens))]
        if draw < 0.52:
            return [scene_dialogue(rng, n_turns=rng.choice([2, 3, 4]), image_tokens=self.image_tokens)]
        return scene_questions(rng, 8, self.image_tokens, self.easy)

    def sounds(self, rng: random.Random) -> list[Dialogue]:
        """The next block: one dialogue."""
        return [with_thought(rng, self.sound(rng))]

    def clips(self, rng: random.Random) -> list[Dialogue]:
        """The next block: a clip with a voice, or questions about one without."""
        if rng.random() < 0.4:
            return [with_thought(rng, self.clip(rng))]
        return clip_questions(rng)

    def batch(self, kind: str, size: int, seed: int) -> list[Dialogue]:
        """A batch of one kind; the seed decides everything in it."""
        rng = random.Random(seed)
        if kind == "picture":
            # All pictures of a batch share the budget: a larger one takes a quarter as many.
            large = rng.random() < self.large_pictures and not self.easy
            # Places are learned from small pictures first: fewer tokens to look at.
            small = self.easy and rng.random() < SMALL_SHARE
            budget = 280 if large else 16 if small else 70
            return [self.picture(rng, budget) for _ in range(max(1, size // 4) if large else size)]
        make = {"text": self.text, "sound": self.sound, "clip": self.clip}[kind]
        return [make(rng) for _ in range(size)]


#: Task of the model card -> maker of one fresh sample from the held-out voices.
EVALUATION: dict[str, Callable[[random.Random, Voices], Dialogue]] = {
    "detect": lambda rng, voices: scene_dialogue(rng, "detect", extra_fonts=False),
    "detect_280": lambda rng, voices: scene_dialogue(rng, "detect", image_tokens=280, extra_fonts=False),
    "point": lambda rng, voices: scene_dialogue(rng, "point", extra_fonts=False),
    "read": lambda rng, voices: read_dialogue(rng, extra_fonts=False),
    "read_280": lambda rng, voices: read_dialogue(rng, 280, extra_fonts=False),
    "describe": lambda rng, voices: scene_dialogue(rng, "describe", extra_fonts=False),
    "count": lambda rng, voices: scene_dialogue(rng, "count", extra_fonts=False),
    "transcribe": lambda rng, voices: transcribe_dialogue(rng, voices, rng.choice([1, 2, 3])),
    "clip": lambda rng, voices: clip_dialogue(rng),
    "clip_sound": talking_clip_dialogue,
    "tool_words": lambda rng, voices: tool_dialogue(rng, use_result=False),
    "tool_result": lambda rng, voices: tool_dialogue(rng, use_result=True),
    "tool_picture": lambda rng, voices: tool_picture_dialogue(rng, extra_fonts=False, use_result=False),
    "tool_sound": sound_call_dialogue,
    "sum_on": lambda rng, voices: sum_dialogue(rng, thinking=True),
    "sum_off": lambda rng, voices: sum_dialogue(rng, thinking=False),
    "talk": lambda rng, voices: talk_dialogue(rng, talk_pairs(held_out=True)),
    "talk_taught": lambda rng, voices: talk_dialogue(rng, talk_pairs(held_out=False)),
    "memory": lambda rng, voices: memory_dialogue(rng),
    "extract": lambda rng, voices: extract_dialogue(rng),
}


def evaluation_set(task: str, count: int, seed: int, voices: Voices) -> list[Dialogue]:
    """Fresh samples of one task; the same seed gives the same samples.

    Args:
        task: a key of :data:`EVALUATION`.
        count: how many.
        seed: of the whole evaluation.
        voices: the held-out voices.
    """
    return [EVALUATION[task](random.Random(f"{seed}/{task}/{index}"), voices) for index in range(count)]
