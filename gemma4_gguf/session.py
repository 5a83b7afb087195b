"""A session: a model, its projector and a context, opened once and asked often."""

from __future__ import annotations

import weakref
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

import numpy as np

from gemma4_gguf.cpu_cores import physical_cores
from gemma4_gguf.engine.context import Context
from gemma4_gguf.engine.kv_cache import Item, MediaSpan, SequencePool
from gemma4_gguf.engine.model import Model
from gemma4_gguf.engine.projector import Projector
from gemma4_gguf.errors import MessageError
from gemma4_gguf.files.hub import find_files
from gemma4_gguf.files.model_file import ModelFacts, check_model
from gemma4_gguf.files.pairing import paired_projector
from gemma4_gguf.files.projector_file import ProjectorFacts
from gemma4_gguf.generation import Engine, Generation, whole
from gemma4_gguf.options import (
    SamplingOptions,
    SessionOptions,
    ToolOptions,
    session_options,
    turn_options,
    with_overrides,
)
from gemma4_gguf.prompt.media_spans import MediaEncoder
from gemma4_gguf.prompt.messages import Message, check_messages, user_message
from gemma4_gguf.prompt.template import Render, renderer
from gemma4_gguf.prompt.tokens import Prompt, wrap_span, write_prompt
from gemma4_gguf.special_tokens import Markers
from gemma4_gguf.structured_output import reply_rules
from gemma4_gguf.talking import Talking
from gemma4_gguf.tasks.asks import careful
from gemma4_gguf.tasks.speech import Hearing
from gemma4_gguf.tasks.vision import Seeing
from gemma4_gguf.tools import ToolLike, declarations
from gemma4_gguf.types import Audio, Chunk, Image, ImageTokens, Part, Reply

Tools = Sequence[ToolLike] | None
T = TypeVar("T")


class Session(Talking, Seeing, Hearing):
    """A loaded model that answers about text, pictures and sounds.

    Close it when done, best as a context manager. Any thread may call it; replies of one session take turns
    unless it was opened with a larger n_seq.

    Args:
        model: a GGUF file, or a hub id such as "org/repo:Q4_K_M", which is downloaded.
        projector: its projector file; "auto" takes the one beside the model, None goes without.
        options: fields of SessionOptions by name, such as device="cpu" or n_ctx=16384.

    Raises:
        GGUFError: a file is damaged, of another family, or would end the process.
        PairingError: the projector belongs to another model.
        OptionError: an option is out of range.
        DeviceError: this build of llama.cpp has no such device.
        EngineError: llama.cpp is too old or cannot load the files.
        HubError: the hub id cannot be downloaded.

    Example:
        >>> with Session("gemma-4-E2B-it-Q4_K_M.gguf") as session:
        ...     print(session.ask("What is in this picture?", Path("photo.jpg")).text)
    """

    def __init__(self, model: str | Path, *, projector: str | Path | None = "auto", **options: Any) -> None:
        self.options: SessionOptions = session_options(options)
        path, projector = find_files(model, projector)
        self.facts: ModelFacts = check_model(path)
        paired = paired_projector(self.facts, projector)
        with ExitStack() as stack:
            self._model = Model(
                self.facts,
                device=self.options.device,
                n_gpu_layers=self.options.n_gpu_layers,
                release_pages=self.options.release_pages,
            )
            stack.callback(self._model.close)
            self._projector = self._open_projector(paired)
            if self._projector is not None:
                stack.callback(self._projector.close)
            sees = self._projector is not None and self._projector.has_vision
            self._context = Context(self._model, self.options, sees=sees)
            stack.callback(self._context.close)
            self._media = MediaEncoder(self._projector, bidirectional_images=self.facts.bidirectional_images)
            self._engine = Engine(self._context, SequencePool(self.options.n_seq), self._markers())
            self._render: Render = renderer(self.facts)
            self.sampling: SamplingOptions = with_overrides(SamplingOptions(), self.facts.sampling)
            # Frees in the right order also when the session is only forgotten, or the interpreter ends.
            self._finalizer = weakref.finalize(self, stack.pop_all().close)

    @property
    def name(self) -> str:
        """Name of the model, as its file says."""
        return self.facts.name

    @property
    def has_vision(self) -> bool:
        """Pictures can be shown to it."""
        return self._media.has_vision

    @property
    def has_audio(self) -> bool:
        """Sounds can be played to it."""
        return self._media.has_audio

    def close(self) -> None:
        """Frees everything. Calling it again does nothing."""
        self._finalizer()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Answers

    def ask(
        self,
        *parts: Part,
        system: str | None = None,
        tools: Tools = None,
        thinking: bool = False,
        image_tokens: ImageTokens | None = None,
        schema: Any = None,
        sampling: SamplingOptions | None = None,
        **overrides: Any,
    ) -> Reply:
        """Asks one question, without memory of earlier ones.

        Args:
            parts: text as str; media as Path, Image, Audio or a PIL image, in the order the model reads them.
            system: instructions before the conversation.
            tools: what the model may call: OpenAI dicts, Pydantic types, Python functions.
            thinking: let the model think first.
            image_tokens: budget per picture: 70, 140, 280 (default), 560 or 1120 soft tokens, or "auto", the
                smallest of these that does not shrink it.
            schema: what the text of the reply must be: a Pydantic model or another type, a JSON schema as a
                dict, a list of choices, a regular expression, GBNF text. A thought before it is free.
            sampling: how tokens are drawn; None takes what the file recommends.
            overrides: single fields of SamplingOptions and ToolOptions by name, such as temperature=0,
                max_tokens=100, stop="###", seed=1 or tool_choice="required".

        Returns:
            The whole reply; `parsed` is the value that the schema describes.

        Raises:
            MessageError: a part is of no known kind, or media that this model cannot take.
            MediaError: media that cannot be read.
            ContextFullError: the prompt is longer than the context.
            SchemaError: the schema cannot be expressed; `pointer` says where.
            IncompleteReplyError: a reply with a schema was cut off; `text` is what there is.
            InvalidReplyError: a validator of the type refuses the value.
        """
        chunks = self.stream(
            *parts,
            system=system,
            tools=tools,
            thinking=thinking,
            image_tokens=image_tokens,
            schema=schema,
            sampling=sampling,
            **overrides,
        )
        return whole(chunks)

    def stream(
        self,
        *parts: Part,
        system: str | None = None,
        tools: Tools = None,
        thinking: bool = False,
        image_tokens: ImageTokens | None = None,
        schema: Any = None,
        sampling: SamplingOptions | None = None,
        **overrides: Any,
    ) -> Generator[Chunk, None, None]:
        """Asks one question and yields the reply as it comes: `ask`, piece by piece.

        Errors in the question are raised by the call, not by the first step. A stream that is closed early
        leaves the session ready for the next question.

        Returns:
            Chunks; joined they are the reply that the last one, of kind "end", carries.
        """
        messages = [user_message(parts)]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        drawn, calling = turn_options(sampling or self.sampling, overrides)
        return self.generate(
            messages,
            tools=tools,
            thinking=thinking,
            image_tokens=image_tokens,
            schema=schema,
            sampling=drawn,
            calling=calling,
        ).stream()

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Tools = None,
        thinking: bool = False,
        image_tokens: ImageTokens | None = None,
        schema: Any = None,
        sampling: SamplingOptions | None = None,
        **overrides: Any,
    ) -> Reply:
        """Answers an OpenAI-shaped conversation.

        Args:
            messages: dicts with role (system, developer, user, assistant, tool) and content: text, or a
                list of parts of type text, image_url (path, file: or data: address), input_audio; assistant
                messages may have tool_calls and reasoning_content, tool messages a tool_call_id.
            tools: as for `ask`, like the other arguments.

        Raises:
            MessageError: a role or part is unknown or malformed; the message names its place.
        """
        drawn, calling = turn_options(sampling or self.sampling, overrides)
        return whole(
            self.generate(
                messages,
                tools=tools,
                thinking=thinking,
                image_tokens=image_tokens,
                schema=schema,
                sampling=drawn,
                calling=calling,
            ).stream()
        )

    def extract(self, type_: type[T], *parts: Part, **options: Any) -> T:
        """Asks for a value of a type.

        Args:
            type_: a Pydantic model, or any other type Pydantic knows.
            parts: as for `ask`: what to read it from, and what is wanted.
            options: as for `ask`. The most likely tokens are drawn unless told otherwise.

        Returns:
            The instance, validated.

        Raises:
            IncompleteReplyError: the reply was cut off; `text` is what there is.
            InvalidReplyError: a validator of the type refuses the value.
            SchemaError: the type cannot be expressed.

        Example:
            >>> session.extract(Receipt, Path("receipt.jpg"), "What was bought?")
        """
        reply = self.ask(*parts, schema=type_, **careful(options))
        return cast("T", reply.parsed)

    def generate(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Tools = None,
        thinking: bool = False,
        image_tokens: ImageTokens | None = None,
        schema: Any = None,
        sampling: SamplingOptions | None = None,
        calling: ToolOptions | None = None,
    ) -> Generation:
        """Prepares a reply to a conversation; what everything above rests on.

        Args:
            messages: as for `complete`, like the other arguments.
            calling: how tools are called.

        Returns:
            The generation; its `stream` draws, its `reply` tells what there is so far.
        """
        checked, tools = check_messages(messages), declarations(tools)
        rules = reply_rules(schema, tools, calling or ToolOptions())
        prompt = self.prompt(checked, tools=tools, thinking=thinking, image_tokens=image_tokens)
        return Generation(
            self._engine,
            prompt,
            sampling or self.sampling,
            tools,
            rules=rules,
            thinking=thinking,
            first_call=sum(len(message.get("tool_calls", ())) for message in checked),
        )

    # Numbers

    def prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Tools = None,
        thinking: bool = False,
        image_tokens: ImageTokens | None = None,
    ) -> Prompt:
        """What the model would read: the rendered conversation as token ids and media spans."""
        self._context.require_open()
        checked: list[Message] = check_messages(messages)
        return write_prompt(
            self._model,
            checked,
            render=self._render,
            lay_out=self._media.layout,
            tools=declarations(tools),
            thinking=thinking,
            image_tokens=image_tokens,
        )

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Text to token ids, without <bos>.

        Args:
            text: of any length.
            special: read control tokens such as <|turn> out of the text; otherwise they are plain characters.
        """
        self._context.require_open()
        return self._model.tokenize(text, special=special)

    def detokenize(self, ids: Sequence[int], *, special: bool = True) -> str:
        """Token ids to text.

        Args:
            ids: token ids.
            special: show control tokens; otherwise they are left out.
        """
        self._context.require_open()
        return self._model.detokenize(ids, special=special)

    def logits(self, ids: Sequence[int | Image | Audio | np.ndarray] | Prompt) -> np.ndarray:
        """Logits after each position of a prompt, computed afresh.

        Args:
            ids: token ids, <bos> included. Between them may stand Image and Audio, which are put between
                their control tokens, and arrays float32 [n, n_embd], which are decoded as they are (as a
                picture's).

        Returns:
            float32 [n_tokens, n_vocab]; rows inside media are NaN.
        """
        self._context.require_open()
        items = list(ids.items) if isinstance(ids, Prompt) else self._items(ids)
        if not items:
            raise MessageError("There are no tokens; expected at least one.")
        with self._engine.pool.lend(()) as state, self._context.lock:
            state.dirty = True  # nothing is reused
            self._context.fit(state, items)
            return self._context.all_logits(state, items)

    def embed(self, media: Image | Audio, *, image_tokens: ImageTokens | None = None) -> np.ndarray:
        """Embeddings of a picture or sound, as the model reads them.

        Returns:
            float32 [n_tokens, n_embd].
        """
        self._context.require_open()
        return self._media.span(media, image_tokens).load()

    # Inside

    def _items(self, ids: Sequence[int | Image | Audio | np.ndarray]) -> list[Item]:
        items: list[Item] = []
        for i, entry in enumerate(ids):
            if isinstance(entry, (Image, Audio)):
                items += wrap_span(self._model, type(entry).__name__.lower(), self._media.span(entry))
            elif isinstance(entry, np.ndarray) and entry.ndim:
                items.append(self._bare_span(entry, i))
            else:
                items.append(int(entry))
        self._model.require_tokens([item for item in items if isinstance(item, int)])
        return items

    def _bare_span(self, array: np.ndarray, place: int) -> MediaSpan:
        if array.ndim != 2 or array.shape[1] != self._model.n_embd or not len(array):
            raise MessageError(
                f"ids[{place}] is an array of shape {list(array.shape)}; expected [n, {self._model.n_embd}]."
            )
        return MediaSpan(f"array {place}", len(array), lambda: array, self.facts.bidirectional_images)

    def _open_projector(self, facts: ProjectorFacts | None) -> Projector | None:
        if facts is None:
            return None
        n_threads = self.options.n_threads or physical_cores()
        return Projector(facts.path, self._model.handle, n_threads=n_threads, use_gpu=self._model.on_gpu)

    def _markers(self) -> Markers:
        special = self.facts.special_tokens
        shown = Markers.from_vocab(special.get).names()
        return Markers.from_vocab(special.get, silent=set(special.values()) - set(shown))
