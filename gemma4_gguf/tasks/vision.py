"""Vision tasks: things found in a picture, places to click, and what a picture or clip shows.

The prompts ask for the form that Gemma was trained to write, thousandths of the picture in the order y, x:
https://docs.cloud.google.com/vertex-ai/generative-ai/docs/bounding-box-detection
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import Unpack

from gemma4_gguf.errors import ContextFullError, IncompleteReplyError, MessageError
from gemma4_gguf.grammars import load
from gemma4_gguf.media.picture import read_image
from gemma4_gguf.options import TurnOptions
from gemma4_gguf.prompt.messages import user_message
from gemma4_gguf.tasks.asks import Asks, careful
from gemma4_gguf.tasks.boxes import Box, Point, read_boxes, read_points
from gemma4_gguf.types import MODALITIES, Audio, Image, Reply, Video

if TYPE_CHECKING:
    from PIL import Image as PILImage

    PictureSource = Image | PILImage.Image | str | Path | bytes

DETECT_PROMPT = (
    "Detect {what}. Answer only with a JSON list that has one object for each one you see, 40 at most: "
    '{"box_2d": [ymin, xmin, ymax, xmax], "label": "what it is"}, where the numbers are thousandths of the '
    "picture, 0 to 1000. If there is none, answer []."
)
POINT_PROMPT = (
    "Point to {what}. Answer only with a JSON list that has one object for each one you see, 40 at most: "
    '{"point": [y, x], "label": "what it is"}, where the numbers are thousandths of the picture, 0 to 1000. '
    "If there is none, answer []."
)
EVERYTHING = "every object"
MAX_LIST_TOKENS = 2048  # 40 boxes take about 1,200

_log = logging.getLogger(__name__)


def detect(
    session: Asks,
    image: PictureSource,
    what: str | Sequence[str] = EVERYTHING,
    *,
    prompt: str = DETECT_PROMPT,
    **options: Unpack[TurnOptions],
) -> list[Box]:
    """Finds things in a picture: see `Session.detect`.

    Args:
        session: that answers.
        image: the picture.
        what: what to look for.
        prompt: the question; {what} in it is replaced.
        options: as for `Session.ask`.

    Returns:
        Boxes in pixels of the picture.
    """
    text, size = _ask_about(session, image, prompt, what, _form(prompt, DETECT_PROMPT, "boxes", options))
    return read_boxes(text, size)


def point(
    session: Asks,
    image: PictureSource,
    what: str | Sequence[str],
    *,
    prompt: str = POINT_PROMPT,
    **options: Unpack[TurnOptions],
) -> list[Point]:
    """Finds places in a picture: see `Session.point`.

    Args:
        session: that answers.
        image: the picture.
        what: what to point to.
        prompt: the question; {what} in it is replaced.
        options: as for `Session.ask`.

    Returns:
        Points in pixels of the picture.
    """
    text, size = _ask_about(session, image, prompt, what, _form(prompt, POINT_PROMPT, "points", options))
    return read_points(text, size)


def describe(
    session: Asks,
    media: Image | Video | Audio | PILImage.Image | str | Path,
    *,
    prompt: str | None = None,
    **options: Unpack[TurnOptions],
) -> Reply:
    """Tells what a picture, a clip or a sound is about: see `Session.describe`.

    Args:
        session: that answers.
        media: a picture, a clip or a sound.
        prompt: None asks for a description.
        options: as for `Session.ask`.

    Returns:
        The whole reply.

    Raises:
        ContextFullError: it needs more tokens than the context holds.
    """
    part, prompt = description(media, prompt)
    try:
        return session.ask(part, prompt, **options)
    except ContextFullError as error:
        if not isinstance(part, Video):
            raise
        raise ContextFullError(
            f"{error} A clip gets shorter with fewer frames=, or with sound=False.",
            n_tokens=error.n_tokens,
            n_ctx=error.n_ctx,
        ) from error


def description(
    media: Image | Video | Audio | PILImage.Image | str | Path, prompt: str | None = None
) -> tuple[Image | Video | Audio, str]:
    """What `describe` asks.

    Args:
        media: as for `describe`.
        prompt: None takes the one that fits.

    Returns:
        The medium and the prompt after it.

    Raises:
        MessageError: a file of no known kind.
    """
    [part] = user_message([Path(media) if isinstance(media, str) else media])["content"]
    kind = part["type"]
    return part[kind], MODALITIES[kind].question if prompt is None else prompt


def _form(prompt: str, usual: str, grammar: str, options: TurnOptions) -> TurnOptions:
    """The options, with what the answer must be, if it is to the question that asks for that form."""
    form: TurnOptions = {"schema": load(grammar)} if prompt == usual else {}
    return {**form, **options}


def _ask_about(
    session: Asks, image: PictureSource, prompt: str, what: str | Sequence[str], options: TurnOptions
) -> tuple[str, tuple[int, int]]:
    """Asks what is in a picture.

    Returns:
        What the model writes, and width and height of the picture in pixels.
    """
    things = [what] if isinstance(what, str) else list(what)
    if not things or not all(isinstance(thing, str) and thing.strip() for thing in things):
        raise MessageError(f"what is {what!r}; expected what to look for, such as 'mugs'.")
    image = image if isinstance(image, Image) else Image(image)
    picture = read_image(image.source)  # decoded once, for its size and for the model
    text = prompt.replace("{what}", ", ".join(thing.strip() for thing in things))
    try:
        reply = session.ask(Image(picture, image.image_tokens), text, **careful(options, MAX_LIST_TOKENS))
    except IncompleteReplyError as error:  # what is there is of use
        reply = error.reply or Reply(error.text, finish_reason="length")
    if reply.finish_reason == "length":
        _log.warning("The list was cut off after %d tokens.", reply.usage.completion_tokens)
    return reply.text, picture.size
