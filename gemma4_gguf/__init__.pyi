"""What `gemma4_gguf` gives, as type checkers and editors read it; `__init__.py` imports it when asked for."""

from gemma4_gguf.async_session import AsyncChat, AsyncSession
from gemma4_gguf.chat import Chat
from gemma4_gguf.errors import Gemma4Error
from gemma4_gguf.files.hub import pull
from gemma4_gguf.options import SamplingOptions, SessionOptions
from gemma4_gguf.reply.parser import parse_reply
from gemma4_gguf.session import Session
from gemma4_gguf.tasks.boxes import Box, Point, draw_boxes, read_boxes, read_points
from gemma4_gguf.tasks.subtitles import format_segments
from gemma4_gguf.types import Audio, Chunk, Image, Pattern, Reply, Segment, ToolCall, Usage, Video

__version__: str

__all__ = [
    "AsyncChat",
    "AsyncSession",
    "Audio",
    "Box",
    "Chat",
    "Chunk",
    "Gemma4Error",
    "Image",
    "Pattern",
    "Point",
    "Reply",
    "SamplingOptions",
    "Segment",
    "Session",
    "SessionOptions",
    "ToolCall",
    "Usage",
    "Video",
    "__version__",
    "draw_boxes",
    "format_segments",
    "parse_reply",
    "pull",
    "read_boxes",
    "read_points",
]
