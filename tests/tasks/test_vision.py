"""Eyes: boxes and points in pixels of the picture as given, whatever its size, turn and kind."""

from __future__ import annotations

import io
import logging
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nano_samples import SAMPLES, TRUTH, overlap
from PIL import Image as PILImage

from gemma4_gguf import Box, Chunk, Image, Point, Reply, Session, Video, draw_boxes
from gemma4_gguf.errors import MediaError, MessageError, OptionError
from gemma4_gguf.grammars import load
from gemma4_gguf.prompt.messages import check_messages
from gemma4_gguf.tasks.vision import DETECT_PROMPT, MAX_LIST_TOKENS, POINT_PROMPT
from gemma4_gguf.types import MODALITIES, Part

NANO_QUESTION: dict[str, Any] = {"prompt": "detect", "image_tokens": 70}  # what the small model was taught


class Answers(Session):
    """Says what it is told to, and remembers what it was asked."""

    def __init__(self, text: str, finish_reason: str = "stop") -> None:
        self.reply = Reply(text, finish_reason=finish_reason)  # type: ignore[arg-type]
        self.parts: tuple[Part, ...] = ()
        self.options: dict[str, Any] = {}

    def ask(self, *parts: Part, **options: Any) -> Reply:
        self.parts, self.options = parts, options
        return self.reply

    def stream(self, *parts: Part, **options: Any) -> Generator[Chunk, None, None]:
        yield Chunk("end", reply=self.ask(*parts, **options))


def in_thousandths(box: Box, size: tuple[int, int]) -> list[int]:
    width, height = size
    return [round(v * 1000) for v in (box.y0 / height, box.x0 / width, box.y1 / height, box.x1 / width)]


def test_shapes_are_found(session: Session) -> None:
    overlaps = []
    for number, expected in enumerate(TRUTH):
        path = SAMPLES / f"scene{number}.png"
        with PILImage.open(path) as picture:
            size = picture.size
        boxes = session.detect(path, **NANO_QUESTION)
        assert [box.label for box in boxes] == [truth["label"] for truth in expected]
        for box, truth in zip(boxes, expected, strict=True):
            overlaps.append(overlap(in_thousandths(box, size), truth["box_2d"]))
            assert 0 <= box.x0 < box.x1 <= size[0] and 0 <= box.y0 < box.y1 <= size[1]
    assert np.mean(overlaps) > 0.5


def test_boxes_are_in_pixels_of_the_picture_as_given(session: Session) -> None:
    """The same scene, larger, and stored on its side as a phone does."""
    scene = PILImage.open(SAMPLES / "scene0.png").convert("RGB")
    expected = session.detect(scene, **NANO_QUESTION)
    large = scene.resize((scene.width * 4, scene.height * 4), PILImage.Resampling.LANCZOS)
    exif, stored = PILImage.Exif(), io.BytesIO()
    exif[0x0112] = 6
    large.transpose(PILImage.Transpose.ROTATE_90).save(stored, "PNG", exif=exif)
    found = session.detect(stored.getvalue(), **NANO_QUESTION)
    assert [box.label for box in found] == [box.label for box in expected]
    for one, four in zip(expected, found, strict=True):
        assert overlap(in_thousandths(four, large.size), in_thousandths(one, scene.size)) > 0.8
    assert draw_boxes(stored.getvalue(), found).size == large.size


def test_forms_of_a_picture(session: Session) -> None:
    path = SAMPLES / "scene2.png"
    sources = [
        str(path),
        path,
        path.read_bytes(),
        PILImage.open(path),
        Image(path),
        Image(path, image_tokens=70),
    ]
    found = [session.detect(source, **NANO_QUESTION) for source in sources]
    assert found[0] and all(boxes == found[0] for boxes in found)


def test_points_of_a_model_that_answers_boxes(session: Session) -> None:
    boxes = session.detect(SAMPLES / "scene0.png", **NANO_QUESTION)
    points = session.point(SAMPLES / "scene0.png", "shapes", **NANO_QUESTION)
    assert points == [Point(b.label, (b.x0 + b.x1) / 2, (b.y0 + b.y1) / 2) for b in boxes]


SCENE = PILImage.new("RGB", (200, 100))
TWO = '{"box_2d": [100, 200, 300, 400], "label": "mug"}'


def test_mending() -> None:
    model = Answers(f'[{TWO}, {TWO}, {{"box_2d": [1100, 900, 500, 1500], "label": "cup"}}]')
    assert model.detect(SCENE, "mugs") == [Box("mug", 40, 10, 80, 30), Box("cup", 180, 50, 200, 100)]
    model = Answers('[{"point": [500, 250], "label": "ok"}, {"point": [500, 250], "label": "ok"}]')
    assert model.point(SCENE, "the button") == [Point("ok", 50, 50)]
    assert Answers("[]").detect(SCENE) == [] == Answers("I see none.").point(SCENE, "mugs")


def test_what_is_asked() -> None:
    model = Answers("[]")
    model.detect(SCENE, ["red mugs", " plates "], image_tokens="auto", system="Look well.")
    image, text = model.parts
    assert isinstance(image, Image) and isinstance(image.source, PILImage.Image)
    assert image.source.size == SCENE.size
    assert text == DETECT_PROMPT.replace("{what}", "red mugs, plates")
    assert model.options == {
        "schema": load("boxes"),
        "image_tokens": "auto",
        "system": "Look well.",
        "temperature": 0,
        "max_tokens": MAX_LIST_TOKENS,
    }
    model.point(SCENE, "{what} ever", temperature=0.5, max_tokens=9)
    assert model.parts[1] == POINT_PROMPT.replace("{what}", "{what} ever")
    assert model.options == {"schema": load("points"), "temperature": 0.5, "max_tokens": 9}
    model.detect(SCENE, thinking=True)
    expected = {"schema": load("boxes"), "thinking": True, "temperature": 0}
    assert model.options == expected, "a thought is as long as it is"
    model.detect(SCENE, "mugs", prompt="find {what}")
    assert "schema" not in model.options, "a question of one's own has an answer of its own form"
    model.detect(Image(SCENE, image_tokens=560), "x")
    assert isinstance(model.parts[0], Image) and model.parts[0].image_tokens == 560


@pytest.mark.parametrize("what", ["", " ", [], ["mug", ""], [3]])
def test_nothing_to_look_for(what: Any) -> None:
    with pytest.raises(MessageError, match="what to look for"):
        Answers("[]").detect(SCENE, what)


def test_a_list_that_is_cut_off_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert Answers(f"[{TWO}, {TWO[:20]}", "length").detect(SCENE) == [Box("mug", 40, 10, 80, 30)]
    assert "cut off" in caplog.text


def test_describe(session: Session, tmp_path: Path) -> None:
    reply = session.describe(SAMPLES / "scene2.png", prompt="detect", image_tokens=70, temperature=0)
    assert "purple circle" in reply.text and reply.usage.prompt_tokens > 64
    model = Answers("A mug.")
    assert model.describe(SCENE, thinking=True).text == "A mug."
    assert model.parts == (Image(SCENE), MODALITIES["image"].question) and model.options == {"thinking": True}
    model.describe("film.mp4")
    assert model.parts == (Video(Path("film.mp4")), MODALITIES["video"].question)
    model.describe(Video("film.mp4", frames=3), prompt="Who?")
    assert model.parts == (Video("film.mp4", frames=3), "Who?")
    (tmp_path / "words").write_text("words")
    with pytest.raises(MessageError, match="no picture, sound or video"):
        model.describe(tmp_path / "words")


def test_refusals_of_a_session(session: Session, nano: Path) -> None:
    with pytest.raises(MediaError, match="does not exist"):
        session.detect("missing.png", "mugs")
    with pytest.raises(MediaError, match="auto"):
        session.detect(SCENE, "mugs", image_tokens="most")
    with pytest.raises(OptionError, match="temperature"):
        session.detect(SCENE, "mugs", temperature=-1)
    with (
        Session(nano, projector=None, n_ctx=64, n_threads=2) as blind,
        pytest.raises(MessageError, match="mmproj"),
    ):
        blind.point(SCENE, "mugs")


# Budgets


def n_soft(session: Session, image: Image, image_tokens: Any = None) -> int:
    messages = [{"role": "user", "content": [{"type": "image", "image": image}]}]
    prompt = session.prompt(messages, image_tokens=image_tokens)
    return prompt.n_tokens - sum(isinstance(item, int) for item in prompt.items)


@pytest.mark.parametrize(
    ("size", "budget"), [((90, 90), 70), ((480, 336), 70), ((600, 400), 140), ((800, 600), 280)]
)
def test_auto_takes_the_smallest_budget_that_does_not_shrink(
    size: tuple[int, int], budget: int, session: Session
) -> None:
    picture = PILImage.new("RGB", size, "blue")
    alone = n_soft(session, Image(picture), budget)
    assert n_soft(session, Image(picture), "auto") == n_soft(session, Image(picture, "auto"), 70) == alone
    assert session.embed(Image(picture, "auto")).shape == (alone, session.facts.n_embd)


def test_auto_stays_within_what_the_projector_knows(session: Session) -> None:
    picture = PILImage.new("RGB", (9000, 300), "blue")
    with pytest.raises(MediaError, match="85 places"):
        n_soft(session, Image(picture, 280))
    assert n_soft(session, Image(picture, "auto")) == n_soft(session, Image(picture, 140)) == 128


def test_a_picture_of_its_own_budget_keeps_it(session: Session) -> None:
    picture = PILImage.new("RGB", (300, 300), "red")
    assert n_soft(session, Image(picture, 280), "auto") == n_soft(session, Image(picture), 280) == 256
    assert n_soft(session, Image(picture)) == 256, "280 is the default"


@pytest.mark.parametrize(("detail", "budget"), [("low", 70), ("high", 1120), ("auto", None), (None, None)])
def test_detail_of_openai(detail: str | None, budget: int | None, session: Session) -> None:
    url: dict[str, Any] = {"url": str(SAMPLES / "scene0.png")}
    url |= {} if detail is None else {"detail": detail}
    messages = check_messages([{"role": "user", "content": [{"type": "image_url", "image_url": url}]}])
    image = messages[0]["content"][0]["image"]
    assert image.image_tokens == budget
    if budget != 1120:  # more than the small model knows
        assert n_soft(session, image, 140) == n_soft(session, Image(SAMPLES / "scene0.png", budget or 140))


def test_several_pictures_at_several_budgets(session: Session) -> None:
    chat = session.chat()
    first, second = Image(SAMPLES / "scene0.png", 70), Image(SAMPLES / "scene1.png", 140)
    chat.send(first, "and", second, "detect", max_tokens=2)
    reply = chat.send(SAMPLES / "scene2.png", "detect", image_tokens="auto", max_tokens=2)
    assert reply.usage.prompt_tokens > 64 + 121 + 64
    prompt = session.prompt(chat.messages[:3])
    assert [item.n_tokens for item in prompt.items if not isinstance(item, int)] == [64, 121, 256]
    assert np.isfinite(session.logits(prompt)[-1]).all()
