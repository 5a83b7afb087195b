"""Convert Gemma 4 checkpoints to GGUF and run them locally.

`Session` opens a model and answers; `gemma4_gguf.convert.convert_checkpoint` makes its files; every error on
purpose is a `Gemma4Error` from `gemma4_gguf.errors`.
"""

from gemma4_gguf.boxes import Box, draw_boxes, read_boxes
from gemma4_gguf.chat import Chat
from gemma4_gguf.errors import Gemma4Error
from gemma4_gguf.messages import Audio, Chunk, Image, Reply, ToolCall, Usage, Video
from gemma4_gguf.options import SamplingOptions, SessionOptions
from gemma4_gguf.reply import parse_reply
from gemma4_gguf.session import Session

__version__ = "0.1.0"

__all__ = [
    "Audio",
    "Box",
    "Chat",
    "Chunk",
    "Gemma4Error",
    "Image",
    "Reply",
    "SamplingOptions",
    "Session",
    "SessionOptions",
    "ToolCall",
    "Usage",
    "Video",
    "__version__",
    "draw_boxes",
    "parse_reply",
    "read_boxes",
]
