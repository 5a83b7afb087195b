"""Exceptions: all those of the library, under one base.

A message says what was found, what was expected and what to do next; fields carry the same for programs.
"""

from __future__ import annotations

from typing import Any


class Gemma4Error(Exception):
    """Base of every error that the library raises on purpose."""

    def __str__(self) -> str:
        # Names of files may hold what no terminal and no log can print.
        return super().__str__().encode("utf-8", "backslashreplace").decode()


class CheckpointError(Gemma4Error):
    """A source directory or one of its files cannot be converted."""


class ConfigError(CheckpointError):
    """config.json lacks a key, or describes something that is not Gemma 4."""


class TensorError(CheckpointError):
    """A weight is missing, unknown, of the wrong shape, or not a number."""


class HubError(Gemma4Error):
    """A hub id cannot be resolved or downloaded."""


class QuantTypeError(Gemma4Error):
    """An output type is unknown or cannot hold this tensor."""


class OutputError(Gemma4Error):
    """The result cannot be written: it exists, the disk is full, the place is read-only."""


class GGUFError(Gemma4Error):
    """A GGUF file is damaged, truncated, of another family, or would make llama.cpp abort."""


class PairingError(GGUFError):
    """A model and a projector do not belong together."""


class EngineError(Gemma4Error):
    """llama.cpp is too old, failed to load a file, or failed to decode."""


class StateError(EngineError):
    """llama.cpp does not take the state of a sequence: it was computed with other options."""


class DeviceError(EngineError):
    """The requested device is absent or not supported by this build of llama.cpp."""


class MediaError(Gemma4Error):
    """A picture, a sound or a video cannot be used."""


class OptionError(Gemma4Error):
    """An option has a value outside its range, or two options contradict each other."""


class MessageError(Gemma4Error):
    """A message has an unknown role, a malformed part, or media that this model cannot take."""


class SavedChatError(MessageError):
    """A saved conversation is damaged, of another version of the format, or of another model."""


class ContextFullError(Gemma4Error):
    """The prompt needs more tokens than the context holds.

    Attributes:
        n_tokens: tokens the prompt needs.
        n_ctx: tokens the context holds.
    """

    def __init__(self, message: str, *, n_tokens: int, n_ctx: int) -> None:
        super().__init__(message)
        self.n_tokens = n_tokens
        self.n_ctx = n_ctx


class ToolError(Gemma4Error):
    """A tool cannot be declared to the model, or has nothing to run."""


class TemplateError(Gemma4Error):
    """A chat template does not parse or refuses the conversation."""


class SchemaError(Gemma4Error):
    """A schema cannot be expressed as a grammar.

    Attributes:
        pointer: JSON pointer to the keyword that cannot be expressed.
        reason: the message without the pointer.
    """

    def __init__(self, message: str, *, pointer: str = "") -> None:
        super().__init__(f"{message} (at {pointer or '/'})")
        self.reason = message
        self.pointer = pointer


class GrammarError(Gemma4Error):
    """A grammar text is malformed, or an engine cannot follow it."""


class IncompleteReplyError(Gemma4Error):
    """A reply that had to be typed data was cut off.

    Attributes:
        text: what the model wrote before it was cut.
        reply: the whole `Reply`, thought and usage included; None for a text that was read by itself.
    """

    def __init__(self, message: str, *, text: str, reply: Any = None) -> None:
        super().__init__(message)
        self.text = text
        self.reply = reply


class InvalidReplyError(Gemma4Error):
    """A reply is whole and well-formed, but a validator of its type refuses it.

    Attributes:
        text: what the model wrote.
    """

    def __init__(self, message: str, *, text: str) -> None:
        super().__init__(message)
        self.text = text
