"""The main job on real input, offline: convert the bundled checkpoint, open it, let it find shapes.

The checkpoint is a small trained Gemma 4 (gemma4_gguf/nano, whose README.md has its prompt and its figures).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from PIL import Image as PILImage

from gemma4_gguf.boxes import Box, draw_boxes, read_boxes
from gemma4_gguf.bundled import bundled_checkpoint
from gemma4_gguf.convert import convert_checkpoint
from gemma4_gguf.convert.progress import ProgressCallback
from gemma4_gguf.errors import OutputError
from gemma4_gguf.messages import Image
from gemma4_gguf.session import Session

NAME = "nano"
PICTURE = "scene1.png"
PROMPT = "detect"
IMAGE_TOKENS = 70  # the budget it was trained at
ENLARGED = 3  # the pictures are small, and labels should be readable

# What `answer` does, as a user would write it after `convert` into a folder; a test runs these lines.
SNIPPET = """\
from gemma4_gguf import Image, Session

with Session("{folder}/nano-Q4_K_M.gguf") as session:
    reply = session.ask(Image("{folder}/scene1.png", image_tokens=70), "detect", temperature=0)
    print(reply.text)
"""


@dataclass(frozen=True)
class Converted:
    """The first half: files.

    Args:
        model: the converted model.
        projector: its projector.
        picture: the picture to show.
        seconds: the conversion took.
    """

    model: Path
    projector: Path
    picture: Path
    seconds: float


@dataclass(frozen=True)
class Answer:
    """The second half: what the model says.

    Args:
        text: as it wrote it.
        boxes: read from that, in pixels of the picture.
        drawing: the picture, enlarged, with the boxes.
        open_seconds: to open the session.
        answer_seconds: from the question to the end of the answer.
    """

    text: str
    boxes: list[Box]
    drawing: Path
    open_seconds: float
    answer_seconds: float


def convert(out_dir: Path, *, progress: ProgressCallback | None = None) -> Converted:
    """Convert the bundled checkpoint to Q4_K_M with a BF16 projector.

    Args:
        out_dir: directory for them and the picture; made if absent, files of an earlier demo are replaced.
        progress: called while converting.

    Returns:
        What was written.

    Raises:
        CheckpointError: the bundled checkpoint is damaged.
        OutputError: the directory cannot be written.
    """
    start = perf_counter()
    with bundled_checkpoint() as bundled:
        made = convert_checkpoint(bundled, out_dir, "Q4_K_M", name=NAME, force=True, progress=progress)
        seconds = perf_counter() - start
        picture = out_dir / PICTURE
        with _writing(picture):
            shutil.copyfile(bundled / "samples" / PICTURE, picture)
    if made.projector is None:
        raise OutputError(f"{made.model} has no projector: the installation is damaged. Install it again.")
    return Converted(made.model, made.projector, picture, seconds)


def answer(files: Converted) -> Answer:
    """Open the converted model, ask it for the shapes in the picture, and draw what it finds.

    Args:
        files: from `convert`.

    Returns:
        Text, boxes and the path of the drawing, beside the picture.

    Raises:
        EngineError: llama.cpp is too old or does not load.
        OutputError: the drawing cannot be written.
    """
    start = perf_counter()
    with Session(files.model) as session:
        opened = perf_counter()
        reply = session.ask(Image(files.picture, IMAGE_TOKENS), PROMPT, temperature=0)
        done = perf_counter()
    with PILImage.open(files.picture) as picture:
        boxes = read_boxes(reply.text, picture.size)
        large = picture.resize(
            (picture.width * ENLARGED, picture.height * ENLARGED), PILImage.Resampling.LANCZOS
        )
    drawing = files.picture.with_name(f"{files.picture.stem}-boxes.png")
    with _writing(drawing):
        draw_boxes(large, read_boxes(reply.text, large.size)).save(drawing)
    return Answer(reply.text, boxes, drawing, opened - start, done - opened)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"Cannot write {path}: {error.strerror or error}. Choose another directory."
        ) from error
