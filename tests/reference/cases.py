"""What is recorded from transformers and compared with llama.cpp: one list for the recorder and the tests."""

from __future__ import annotations

from dataclasses import dataclass

TEXT_MEMBERS = ("e2b", "e4b", "26b", "31b", "12b", "same_head_dim", "e2b_text")
IMAGE_MEMBERS = {"e2b": (70, 140, 280), "12b": (70, 140, 280), "26b": (70,)}
AUDIO_MEMBERS = ("e2b", "12b")
PROMPT_MEMBERS = ("e2b", "26b", "12b")

# 111 tokens: more than three sliding windows of the tiny checkpoints.
PROMPT = (
    "The quick brown fox jumps over the lazy dog while it waits for the night train to Zürich.\n"
    "Seven wet red circles and two big blue squares stand left of the sky, 1234567890 times!"
)

PICTURES = ((400, 300), (517, 233), (190, 611))
AUDIO_MS = (500, 2300, 6130)


@dataclass(frozen=True)
class ImagePrompt:
    """A prompt with a picture inside: text, begin-of-image, soft tokens, end-of-image, text."""

    before: str = "Here is what I saw this morning:"
    picture: tuple[int, int] = (300, 260)
    image_tokens: int = 70
    after: str = "\nName every shape, its colour and where it stands, then count them."


IMAGE_PROMPT = ImagePrompt()


@dataclass(frozen=True)
class VideoPrompt:
    """A clip between two texts: pictures in all, per second, their size, and which of them are taken."""

    total: int
    rate: int
    size: tuple[int, int]
    frames: int = 32
    fps: float | None = None


VIDEO_MEMBER = "e2b"
VIDEO_TEXTS = ("Watch this.", "What moves, and when?")
VIDEO_PROMPTS = (
    VideoPrompt(50, 25, (96, 64)),
    VideoPrompt(9, 10, (160, 120)),
    VideoPrompt(1, 10, (64, 64)),
    VideoPrompt(131, 1, (64, 96), frames=5),
    VideoPrompt(40, 10, (320, 98), fps=1.5),
    VideoPrompt(75, 30, (1024, 576), frames=2),
)

# Sizes (width, height) whose target is awkward: tiny, thin, square, already right, just under and over a
# step.
IMAGE_SIZES = (
    (1, 1), (1, 7), (2, 300), (16, 16), (47, 49), (48, 48), (64, 63), (100, 1000), (1000, 100),
    (150, 9000), (224, 224), (333, 517), (517, 333), (640, 480), (768, 768), (800, 600), (1023, 767),
    (1024, 1024), (1080, 1920), (1536, 864), (1920, 1080), (2048, 64), (2481, 3508), (3000, 2000),
    (4032, 3024), (9000, 150), (12000, 37),
)  # fmt: skip

STRINGS = (
    "Hello world",
    " leading and trailing ",
    "two  spaces   three",
    "line\nline\n\nparagraph\n\n\n\nfour",
    "tabs\tand\r\nreturns",
    "naïve café Zürich ﬁ",
    "emoji 👩‍👩‍👧‍👦🇨🇭 end",
    "数字と漢字",
    "a" * 60,
    "1234567890 3.14159",
    "<|turn>user\nhi<turn|>\n<|turn>model\n",
    "<|image><|image|><image|> and <|tool_call>call:f{a:1}<tool_call|>",
    "",
)
