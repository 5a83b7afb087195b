"""Questions about pictures and clips, with their answers: detect, point, read, describe, count, motion.

Every function draws from a ``random.Random`` and returns a :class:`~nano.dialogue.Dialogue`. In training
several questions are asked about one picture in a row, which costs one encoding and teaches follow-ups; the
evaluation asks one.
"""

from __future__ import annotations

import json
import random
from typing import Any

from nano.dialogue import Dialogue
from nano.scenes import Clip, Item, Scene, clip, page, printed, scene
from nano.words import COLOURS, PRINTED, SHAPES

DETECT = (
    "Detect {}.",
    "detect {}",
    "Find {}.",
    "Find {} in the picture.",
    "Give the bounding boxes of {}.",
    "Detect {} and answer with JSON.",
    "Detect {}. Answer with a JSON list of box_2d and label.",
    'Detect {}. Output a JSON list where each entry has "box_2d" as [ymin, xmin, ymax, xmax] and "label".',
    "Detect {} in the image. Return a JSON list of objects with box_2d and label.",
)
POINT = (
    "Point at {}.",
    "point to {}",
    "Where is {}?",
    "Show me {} with a point.",
    "Point at {} and answer with JSON.",
    "Point at {}. Answer with a JSON list of point and label.",
    'Point to {}. Output a JSON list where each entry has "point" as [y, x] and "label".',
    "Point at {} in the image. Return a JSON list of objects with point and label.",
)
DESCRIBE = (
    "Describe this picture in detail.",
    "Describe the picture.",
    "Describe this image in one sentence.",
    "What do you see?",
    "What is in the picture?",
    "What does this picture show?",
    "Describe the image.",
)
READ = (
    "Read the text.",
    "What does it say?",
    "What is written here?",
    "Read what is printed.",
    "What text is in the picture?",
    "Read the text in the image.",
    "What does the picture say?",
)
STILL = 0.25  # more clips in which nothing moves: the hardest to tell
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
#: What Session.detect, point and describe ask (a test holds them to it).
SESSION_DETECT = (
    "Detect {what}. Answer only with a JSON list that has one object for each one you see, 40 at most: "
    '{"box_2d": [ymin, xmin, ymax, xmax], "label": "what it is"}, where the numbers are thousandths of the '
    "picture, 0 to 1000. If there is none, answer []."
)
SESSION_POINT = (
    "Point to {what}. Answer only with a JSON list that has one object for each one you see, 40 at most: "
    '{"point": [y, x], "label": "what it is"}, where the numbers are thousandths of the picture, 0 to 1000. '
    "If there is none, answer []."
)
SESSION_SHARE = 0.3
EVERYTHING = ("all objects", "everything", "the objects", "all shapes and buttons", "objects", "every object")
MOTION = (
    "Describe what happens in this clip from beginning to end, and when.",
    "What moves?",
    "Which shape moves, and where?",
    "What happens in this clip?",
    "Describe the video.",
    "Describe this video in one sentence.",
    "What moved in the video?",
    "Where does it move?",
)


def boxes_json(items: list[Item]) -> str:
    """The native box list, without leading zeros."""
    return json.dumps([{"box_2d": list(item.box), "label": item.label} for item in items])


def points_json(items: list[Item]) -> str:
    """The native point list, ``[y, x]``."""
    return json.dumps([{"point": list(item.centre), "label": item.label} for item in items])


def article(name: str) -> str:
    """``a red circle``, ``an orange star``."""
    return ("an " if name[0] in "aeiou" else "a ") + name


def item_phrase(item: Item) -> str:
    """How a sentence names an object."""
    phrase = article(f"{item.colour} {item.kind}")
    return f"{phrase} that says {item.caption}" if item.caption else phrase


def description(items: tuple[Item, ...]) -> str:
    """The fixed style: ``A red circle, a blue square and a green button that says Save.``"""
    phrases = [item_phrase(item) for item in items]
    if not phrases:
        return "An empty picture."
    text = phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    return text[0].upper() + text[1:] + "."


def plural(kind: str) -> str:
    """``circles``."""
    return kind + "s"


def _wanted(rng: random.Random, items: tuple[Item, ...]) -> tuple[str, list[Item]]:
    """What to look for, in words, and the objects that are meant (now and then none)."""
    if not items or rng.random() < 0.3:
        return rng.choice(EVERYTHING), list(items)
    pick = rng.choice(items)
    kind, colour = pick.kind, pick.colour
    if rng.random() < 0.08:  # something that is not there
        kind = rng.choice([*SHAPES, "button"])
        colour = rng.choice(tuple(COLOURS))
        found = [item for item in items if (item.kind, item.colour) == (kind, colour)]
        return rng.choice([f"the {colour} {kind}", f"{colour} {plural(kind)}"]), found
    if len(items) > 1 and rng.random() < 0.08:
        pair = {(item.kind, item.colour): item for item in rng.sample(items, 2)}
        names = rng.choice([", ", ", ", " and "]).join(f"{colour} {kind}" for kind, colour in pair)
        return names, [item for item in items if (item.kind, item.colour) in pair]
    draw = rng.random()
    if draw < 0.2:
        return rng.choice([plural(kind), f"the {plural(kind)}", f"all {plural(kind)}", f"every {kind}"]), [
            item for item in items if item.kind == kind
        ]
    if draw < 0.4:
        return rng.choice([f"everything {colour}", f"the {colour} objects", f"all {colour} objects"]), [
            item for item in items if item.colour == colour
        ]
    if pick.caption and draw < 0.7:
        caption = pick.caption
        return rng.choice(
            [f"the {caption} button", f"the button that says {caption}", f"the button {caption}"]
        ), [item for item in items if item.caption == caption]
    return rng.choice([f"the {colour} {kind}", f"{colour} {kind}"]), [
        item for item in items if (item.kind, item.colour) == (kind, colour)
    ]


def _truth(items: list[Item]) -> list[dict[str, Any]]:
    return [{"box": list(item.box), "label": item.label} for item in items]


def _ask_for(rng: random.Random, session: str, others: tuple[str, ...], what: str) -> str:
    """A prompt for boxes or points of something."""
    if rng.random() < SESSION_SHARE:
        return session.replace("{what}", what)
    return rng.choice(others).format(what)


Question = tuple[str, str, str, dict[str, Any]]  # task, question, answer, truth


def ask_detect(rng: random.Random, shown: Scene) -> Question:
    """Boxes of everything or of what is named."""
    what, found = _wanted(rng, shown.items)
    prompt = _ask_for(rng, SESSION_DETECT, DETECT, what)
    if what in EVERYTHING and rng.random() < 0.2:
        prompt = "detect"
    return "detect", prompt, boxes_json(found), {"items": _truth(found)}


def ask_point(rng: random.Random, shown: Scene) -> Question:
    """A point inside one named object."""
    what, found = _wanted(rng, shown.items)
    while what in EVERYTHING and shown.items:
        what, found = _wanted(rng, shown.items)
    return "point", _ask_for(rng, SESSION_POINT, POINT, what), points_json(found), {"items": _truth(found)}


def ask_describe(rng: random.Random, shown: Scene) -> Question:
    """One sentence in the fixed style."""
    return "describe", rng.choice(DESCRIBE), description(shown.items), {}


def ask_count(rng: random.Random, shown: Scene) -> Question:
    """How many of a kind, of a colour or in all."""
    what, found = _wanted(rng, shown.items)
    kinds = {plural(kind) for kind in (*SHAPES, "button")}
    if what in EVERYTHING:
        name = rng.choice(["objects", "things"])
    elif what.split()[-1] in kinds and " " not in what:
        name = what
    else:
        colour = rng.choice(shown.items).colour if shown.items else "red"
        name, found = f"{colour} objects", [item for item in shown.items if item.colour == colour]
    prompt = rng.choice(
        ["How many {} are there?", "Count the {}.", "How many {} do you see?", "How many {}?"]
    )
    return "count", prompt.format(name), str(len(found)), {}


def ask_detail(rng: random.Random, shown: Scene) -> Question:
    """A colour, a caption, or yes and no."""
    pick = rng.choice(shown.items)
    alone = sum(item.kind == pick.kind for item in shown.items) == 1
    if pick.caption and rng.random() < 0.6:
        name = f"the {pick.colour} button" if not alone or rng.random() < 0.5 else "the button"
        return "detail", f"What does {name} say?", pick.caption, {}
    if alone and rng.random() < 0.5:
        return "detail", f"What colour is the {pick.kind}?", pick.colour, {}
    kind, colour = pick.kind, pick.colour
    if rng.random() < 0.5:
        kind, colour = rng.choice([*SHAPES, "button"]), rng.choice(tuple(COLOURS))
    there = any((item.kind, item.colour) == (kind, colour) for item in shown.items)
    return "detail", f"Is there {article(colour + ' ' + kind)}?", "Yes." if there else "No.", {}


ASK = {
    "detect": ask_detect,
    "point": ask_point,
    "describe": ask_describe,
    "count": ask_count,
    "detail": ask_detail,
}
WEIGHTS = {"detect": 4.0, "point": 2.0, "describe": 2.0, "count": 1.5, "detail": 1.0}
#: Places come last, so the start is about places.
EASY_WEIGHTS = {"detect": 4.0, "point": 4.0, "describe": 1.0, "count": 0.5, "detail": 0.5}


def scene_dialogue(
    rng: random.Random,
    task: str | None = None,
    n_turns: int = 1,
    image_tokens: int = 70,
    extra_fonts: bool = True,
    easy: bool = False,
) -> Dialogue:
    """Questions about a scene.

    Args:
        rng: where every choice comes from.
        task: a key of :data:`ASK`, or None for a random mix.
        n_turns: questions asked in a row about the same picture.
        image_tokens: the budget.
        extra_fonts: whether fonts beside Pillow's own may be used.
        easy: one or two shapes and hardly a button, for the start of the curriculum.
    """
    shown = scene(rng, rng.choice([1, 2]), 0.08, extra_fonts) if easy else scene(rng, extra_fonts=extra_fonts)
    asked = [
        ASK[task or rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]](rng, shown) for _ in range(n_turns)
    ]
    messages: list[dict[str, Any]] = []
    for index, (_, question, answer, _) in enumerate(asked):
        if task is None and rng.random() < 0.1:
            question = question.lower().rstrip("?. ")  # as people type it
        content: Any = question
        if index == 0:
            content = [{"type": "image", "image": shown.picture}, {"type": "text", "text": question}]
        messages += [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    name, _, _, truth = asked[-1]
    dialogue = Dialogue(name, messages, image_tokens=image_tokens, truth=truth)
    if task is None and rng.random() < 0.1:
        dialogue.thinking = True
        messages[-1]["thinking"] = "I see " + ", ".join(item_phrase(item) for item in shown.items) + "."
    return dialogue


def scene_questions(
    rng: random.Random, n_questions: int, image_tokens: int = 70, easy: bool = False
) -> list[Dialogue]:
    """Dialogues of one question each about the same scene."""
    shown = scene(rng, rng.choice([1, 1, 2]), 0.1) if easy else scene(rng)
    weights = EASY_WEIGHTS if easy else WEIGHTS
    dialogues = []
    for _ in range(n_questions):
        kind = rng.choices(list(weights), list(weights.values()))[0]
        name, question, answer, truth = ASK[kind](rng, shown)
        if rng.random() < 0.05:
            question = question.lower().rstrip("?. ")  # as people type it
        content = [{"type": "image", "image": shown.picture}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
        dialogues.append(Dialogue(name, messages, image_tokens=image_tokens, truth=truth))
    return dialogues


def printed_text(rng: random.Random) -> str:
    """A word of the list, in one of three cases, or a number of up to four digits."""
    draw = rng.random()
    if draw < 0.5:
        word = rng.choice(PRINTED)
        return rng.choice([word, word, word.capitalize(), word.upper()])
    return str(rng.randint(0, 10 ** rng.randint(1, 4) - 1))


def read_dialogue(rng: random.Random, image_tokens: int = 70, extra_fonts: bool = True) -> Dialogue:
    """Reads one printed word or number."""
    text = printed_text(rng)
    picture, _ = printed(rng, text, extra_fonts)
    return _about("image", picture, "read", rng.choice(READ), text, image_tokens)


def page_questions(rng: random.Random, image_tokens: int = 70) -> list[Dialogue]:
    """All words of a page, one of them, and how many there are, side by side: more to read in a picture."""
    shown = page(rng, printed_text)
    while not shown.lines:
        shown = page(rng, printed_text)
    words = [line.text for line in shown.lines]
    number = rng.randrange(min(len(words), len(ORDINALS)))
    asked = [
        (rng.choice(READ), " ".join(words)),
        (f"What is the {ORDINALS[number]} word?", words[number]),
        ("What is the last word?", words[-1]),
        ("How many words are there?", str(len(words))),
    ]
    return [_about("image", shown.picture, "read", *one, image_tokens) for one in asked]


def _about(kind: str, media: Any, task: str, question: str, answer: str, image_tokens: int = 70) -> Dialogue:
    """One question about one picture or clip."""
    content = [{"type": kind, kind: media}, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return Dialogue(task, messages, image_tokens=image_tokens)


def motion_sentence(shown: Clip) -> str:
    """``The red circle moves to the right.``"""
    if not shown.moved:
        return "Nothing moves."
    where = shown.direction if shown.direction in ("up", "down") else f"to the {shown.direction}"
    return f"The {shown.moved} moves {where}."


def clip_dialogue(rng: random.Random, spoken: tuple[Any, str] | None = None) -> Dialogue:
    """What moved where in a clip; with ``spoken`` (sound, written word) also what the voice says."""
    shown: Clip = clip(rng)
    content: list[dict[str, Any]] = [{"type": "video", "video": shown.frames, "seconds": shown.seconds}]
    answer = motion_sentence(shown)
    if spoken is not None:
        content.append({"type": "audio", "audio": spoken[0]})
        answer += f" The voice says {spoken[1]}."
    content.append({"type": "text", "text": rng.choice(MOTION)})
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return Dialogue("clip", messages)


def clip_questions(rng: random.Random) -> list[Dialogue]:
    """What happens in a clip, and about each shape whether it moves and where it is, side by side."""
    shown: Clip = clip(rng, STILL)
    where = {"up": "up", "down": "down", "left": "to the left", "right": "to the right"}
    asked = [
        (rng.choice(MOTION), motion_sentence(shown)),
        ("Does anything move?", "Yes." if shown.moved else "No."),
    ]
    for index, (kind, colour) in enumerate(shown.items):
        moves = index == 0 and bool(shown.moved)
        answer = f"Yes, {where[shown.direction]}." if moves else "No."
        asked.append((f"Does the {colour} {kind} move?", answer))
        for frame in ("first", "last"):
            y, x = shown.centres[0 if frame == "first" else -1][index]
            asked.append((f"Where is the {colour} {kind} in the {frame} frame?", f"[{y}, {x}]"))
    dialogues = []
    for question, answer in asked:
        dialogue = _about("video", shown.frames, "clip", question, answer)
        dialogue.messages[0]["content"][0]["seconds"] = shown.seconds
        dialogues.append(dialogue)
    return dialogues
