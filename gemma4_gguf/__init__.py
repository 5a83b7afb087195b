"""Gemma 4 in GGUF: converts checkpoints and runs them locally.

`Session` opens a model and answers; `pull` downloads its files, and `gemma4_gguf.convert.convert_checkpoint`
makes them; every error on purpose is a `Gemma4Error` from `gemma4_gguf.errors`.
"""

from importlib import import_module as _import_module

__version__ = "0.1.0"

# Name → where it is defined. Imported when first asked for: the command line starts, and can be interrupted,
# before numpy and llama.cpp are loaded. Type checkers and editors read the same list in __init__.pyi.
_HOMES = {
    "AsyncChat": "async_session",
    "AsyncSession": "async_session",
    "Audio": "types",
    "Box": "tasks.boxes",
    "Chat": "chat",
    "Chunk": "types",
    "Gemma4Error": "errors",
    "Image": "types",
    "Pattern": "types",
    "Point": "tasks.boxes",
    "Reply": "types",
    "SamplingOptions": "options",
    "Segment": "types",
    "Session": "session",
    "SessionOptions": "options",
    "ToolCall": "types",
    "Usage": "types",
    "Video": "types",
    "draw_boxes": "tasks.boxes",
    "format_segments": "tasks.subtitles",
    "parse_reply": "reply.parser",
    "pull": "files.hub",
    "read_boxes": "tasks.boxes",
    "read_points": "tasks.boxes",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    """A public name, or a module of this package."""
    if name in _HOMES:
        value = getattr(_import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    if not name.startswith("_"):
        try:
            return _import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
