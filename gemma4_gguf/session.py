"""Session: a model, its projector and a context, opened once and asked often."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from typing_extensions import Unpack

from gemma4_gguf.chat import Chat
from gemma4_gguf.chat_file import read_chat_file, restore_sequence
from gemma4_gguf.engine.engine import Engine
from gemma4_gguf.errors import GGUFError, OptionError
from gemma4_gguf.files.hub import find_files
from gemma4_gguf.files.model_file import ModelFacts, check_model
from gemma4_gguf.files.pairing import paired_projector
from gemma4_gguf.generation import Generation, Turn, read_turn, whole
from gemma4_gguf.options import (
    SamplingOptions,
    SessionFields,
    SessionOptions,
    TurnOptions,
    session_options,
    with_overrides,
)
from gemma4_gguf.prompt.messages import user_message
from gemma4_gguf.prompt.tokens import Prompt, PromptWriter
from gemma4_gguf.tasks import speech, vision
from gemma4_gguf.tasks.asks import careful
from gemma4_gguf.truncation import OnFull
from gemma4_gguf.types import Audio, Chunk, Image, ImageTokens, Part, Reply, Segment, ToolLike, Video

if TYPE_CHECKING:
    from PIL import Image as PILImage

    from gemma4_gguf.tasks.boxes import Box, Point
    from gemma4_gguf.tasks.speech import SoundSource
    from gemma4_gguf.tasks.vision import PictureSource

T = TypeVar("T")


class Session:
    """A loaded model that answers about text, pictures and sounds.

    Close it when done, best as a context manager. Any thread may call it; replies of one session take turns
    unless it was opened with a larger n_seq.

    Args:
        model: a GGUF file, or a hub id such as "org/repo:Q4_K_M", which is downloaded.
        projector: its projector file; "auto" takes the one beside the model, None goes without.
        options: fields of SessionOptions by name, such as device="cpu" or n_ctx=16384.

    Attributes:
        facts: what the model file says.
        options: how it was opened.
        sampling: how tokens are drawn where nothing is said; from the file.
        engine: that computes.
        prompts: write what the model reads.

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

    def __init__(
        self, model: str | Path, *, projector: str | Path | None = "auto", **options: Unpack[SessionFields]
    ) -> None:
        self.options: SessionOptions = session_options(options)
        path, projector = find_files(model, projector)
        self.facts: ModelFacts = check_model(path)
        try:
            self.sampling: SamplingOptions = with_overrides(SamplingOptions(), self.facts.sampling)
        except OptionError as error:
            raise GGUFError(f"{path} recommends in general.sampling what cannot be: {error}") from error
        facts, why_none = paired_projector(self.facts, projector)
        self.engine = Engine(self.facts, facts, self.options, why_no_projector=why_none)
        self.prompts = PromptWriter(self.engine)

    @property
    def name(self) -> str:
        """Name of the model, as its file says."""
        return self.facts.name

    @property
    def has_vision(self) -> bool:
        """Pictures can be shown to it."""
        return self.engine.media.has_vision

    @property
    def has_audio(self) -> bool:
        """Sounds can be played to it."""
        return self.engine.media.has_audio

    def close(self) -> None:
        """Frees everything. Calling it again does nothing."""
        self.engine.close()

    def __repr__(self) -> str:
        engine = vars(self).get("engine")
        if engine is None:
            return "<Session that could not be opened>"
        senses = [word for word, has in (("sees", self.has_vision), ("hears", self.has_audio)) if has]
        state = f"n_ctx={engine.n_ctx}" if engine.is_open else "closed"
        return f"<Session {', '.join([repr(self.name), *senses, state])}>"

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Questions

    def ask(self, *parts: Part, **options: Unpack[TurnOptions]) -> Reply:
        """Asks one question, without memory of earlier ones.

        Args:
            parts: text as str; media as Path, Image, Audio or a PIL image, in the order the model reads them.
            options: TurnOptions by name: system, tools, thinking, image_tokens, schema, sampling, and single
                fields of SamplingOptions and ToolOptions, such as temperature=0, max_tokens=100, stop="###",
                seed=1 or tool_choice="required".

        Returns:
            The whole reply; `parsed` is the value that the schema describes.

        Raises:
            MessageError: a part is of no known kind, or media that this model cannot take.
            MediaError: media that cannot be read.
            OptionError: an option is unknown or out of range.
            ContextFullError: the prompt is longer than the context.
            SchemaError: the schema cannot be expressed; `pointer` says where.
            IncompleteReplyError: a reply with a schema was cut off; `text` is what there is.
            InvalidReplyError: a validator of the type refuses the value.
        """
        return whole(self.stream(*parts, **options))

    def stream(self, *parts: Part, **options: Unpack[TurnOptions]) -> Generator[Chunk, None, None]:
        """Asks one question and yields the reply as it comes: `ask`, piece by piece.

        Errors in the question are raised by the call, not by the first step. A stream that is closed early
        leaves the session ready for the next question.

        Args:
            parts: as for `ask`.
            options: as for `ask`.

        Returns:
            Chunks; joined they are the reply that the last one, of kind "end", carries.
        """
        return self.generate(read_turn([user_message(parts)], options, self.sampling)).stream()

    def complete(self, messages: Sequence[Mapping[str, Any]], **options: Unpack[TurnOptions]) -> Reply:
        """Answers a conversation in OpenAI's form; that of Anthropic, Gemini and Ollama is read, too.

        Args:
            messages: dicts with role (system, developer, user, assistant, tool) and content: text, or a
                list of parts of type text, image_url (path, file: or data: address), input_audio; assistant
                messages may have tool_calls and reasoning_content, tool messages a tool_call_id. Each call
                needs its result; results are put into the order of the calls.
            options: as for `ask`.

        Returns:
            The whole reply.

        Raises:
            MessageError: a role, part or key is unknown or malformed, a call has no result or a result no
                call; the message names its place.
        """
        return whole(self.generate(read_turn(messages, options, self.sampling)).stream())

    def extract(self, type_: type[T], *parts: Part, **options: Unpack[TurnOptions]) -> T:
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
        wanted: TurnOptions = {**careful(options), "schema": type_}
        return cast("T", self.ask(*parts, **wanted).parsed)

    def generate(self, turn: Turn, *, owner: object | None = None) -> Generation:
        """Prepares a reply; what everything above rests on.

        Args:
            turn: from `read_turn`.
            owner: who will come back with a longer conversation; finds what the cache holds of it again.

        Returns:
            The generation; its `stream` draws, its `reply` tells what there is so far.
        """
        return Generation(self.engine, self.prompts, turn, owner=owner)

    # Conversations

    def chat(
        self,
        *,
        system: str | None = None,
        tools: Sequence[ToolLike] | None = None,
        thinking: bool = False,
        on_full: OnFull = "error",
    ) -> Chat:
        """Starts a conversation that remembers.

        Any number of them live in one session. What they hold stays in the cache for the last n_seq of them;
        the others are decoded again when they go on.

        Args:
            system: instructions before the conversation.
            tools: what the model may call: Python functions, Pydantic types, tool dicts.
            thinking: let the model think before each answer.
            on_full: "error", or "drop_oldest" to leave out whole old turns when the context is full.

        Returns:
            The conversation, still empty.
        """
        return Chat(self, system=system, tools=tools, thinking=thinking, on_full=on_full)

    def load_chat(
        self, path: str | Path, *, tools: Sequence[ToolLike] | None = None, state: bool = True
    ) -> Chat:
        """Brings a conversation back that `Chat.save` wrote, without decoding it again.

        Args:
            path: the file.
            tools: as for `chat`; Python functions must be given again. None takes the saved declarations.
            state: False takes only what was said, for another model or another version of llama.cpp.

        Returns:
            The conversation, as it was saved.

        Raises:
            SavedChatError: the file is damaged, of another version of the format, or of another model.
            EngineError: all conversations of this session are in mid-reply.
        """
        saved = read_chat_file(path, state=state)
        chat = Chat(
            self,
            tools=saved.tools if tools is None else tools,
            thinking=saved.thinking,
            on_full=saved.on_full,
        )
        restore_sequence(self.engine, chat, saved, path)
        chat.messages, chat.dropped = saved.messages, saved.dropped
        return chat

    # Tasks

    def detect(
        self,
        image: PictureSource,
        what: str | Sequence[str] = vision.EVERYTHING,
        *,
        prompt: str = vision.DETECT_PROMPT,
        **options: Unpack[TurnOptions],
    ) -> list[Box]:
        """Finds things in a picture.

        Args:
            image: an Image, a path, encoded bytes or a PIL image.
            what: what to look for: "mugs", or several things.
            prompt: the question; {what} in it is replaced. The answer to the usual one follows the grammar
                `boxes`; to another it is free, and what can be read of it is.
            options: as for `ask`, such as image_tokens="auto", which finds smaller things in large pictures.
                The most likely tokens are drawn unless told otherwise.

        Returns:
            Boxes in pixels of the picture as a person sees it, inside it, each once.

        Raises:
            MessageError: nothing to look for, or the model has no eyes.
            MediaError: the picture cannot be read.
        """
        return vision.detect(self, image, what, prompt=prompt, **options)

    def point(
        self,
        image: PictureSource,
        what: str | Sequence[str],
        *,
        prompt: str = vision.POINT_PROMPT,
        **options: Unpack[TurnOptions],
    ) -> list[Point]:
        """Finds places in a picture, such as where to click.

        Args:
            image: as for `detect`, like the other arguments.
            what: what to point to: "the search field".
            prompt: the question, as for `detect`; the grammar of the usual one is `points`.
            options: as for `ask`.

        Returns:
            Points in pixels of the picture as a person sees it, inside it, each once.

        Raises:
            MessageError: nothing to look for, or the model has no eyes.
            MediaError: the picture cannot be read.
        """
        return vision.point(self, image, what, prompt=prompt, **options)

    def describe(
        self,
        media: Image | Video | Audio | PILImage.Image | str | Path,
        *,
        prompt: str | None = None,
        **options: Unpack[TurnOptions],
    ) -> Reply:
        """Tells what a picture, a clip or a sound is about.

        Args:
            media: an Image, Video or Audio, a PIL image, or the path of a file of any of these kinds.
            prompt: what to tell; None asks for a description.
            options: as for `ask`.

        Returns:
            The whole reply.

        Raises:
            MessageError: a file of no known kind, or the model lacks eyes or ears for it.
            MediaError: it cannot be read.
            ContextFullError: it needs more tokens than the context holds.
        """
        return vision.describe(self, media, prompt=prompt, **options)

    def transcribe(
        self,
        audio: SoundSource,
        *,
        language: str | None = None,
        translate_to: str | None = None,
        prompt: str | None = None,
        max_s: float = speech.MAX_CLIP_S,
        **options: Unpack[TurnOptions],
    ) -> str:
        """Writes down what is said.

        Args:
            audio: a path or the content of any file with sound (videos too), Audio, or samples at 16 kHz; of
                any length.
            language: what is spoken, "German" or "de"; None leaves it to the model.
            translate_to: write it in this language instead.
            prompt: asked of every piece instead of the usual question.
            max_s: longest piece heard at once, 1 to 30 seconds.
            options: as for `ask`. The most likely tokens are drawn unless told otherwise.

        Returns:
            The words, on one line.

        Raises:
            MessageError: the model has no ears.
            MediaError: the sound cannot be read, or there is nothing to hear.
            OptionError: an option is out of range.
        """
        question = speech.Question(language=language, translate_to=translate_to, prompt=prompt)
        segments = speech.transcribe_segments(self, audio, question, max_s=max_s, **options)
        return speech.join_texts(segment.text for segment in segments)

    def transcribe_segments(
        self,
        audio: SoundSource,
        *,
        language: str | None = None,
        translate_to: str | None = None,
        prompt: str | None = None,
        max_s: float = speech.MAX_CLIP_S,
        **options: Unpack[TurnOptions],
    ) -> Generator[Segment, None, None]:
        """Writes down what is said, piece by piece as it gets done: `transcribe` with times.

        The sound is read as it is needed. Errors in the question are raised by the call, not by the first
        step.

        Args:
            audio: as for `transcribe`, like the other arguments.

        Returns:
            Segments that follow each other; a piece in which nothing is said gives none.

        Raises:
            MessageError: the model has no ears.
            MediaError: the sound cannot be read, or there is nothing to hear.
            OptionError: an option is out of range.
        """
        question = speech.Question(language=language, translate_to=translate_to, prompt=prompt)
        return speech.transcribe_segments(self, audio, question, max_s=max_s, **options)

    # Numbers

    def prompt(self, messages: Sequence[Mapping[str, Any]], **options: Unpack[TurnOptions]) -> Prompt:
        """What the model would read: the rendered conversation as token ids and media spans.

        Args:
            messages: as for `complete`.
            options: as for `ask`.

        Returns:
            Token ids and media spans, <bos> first.
        """
        return read_turn(messages, options, self.sampling).prompt(self.prompts)

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Text to token ids, without <bos>: the text as it is, no template around it.

        In a conversation texts are read with special=False, and only the template writes control tokens.

        Args:
            text: of any length.
            special: read control tokens such as <|turn> out of the text; otherwise they are plain characters.

        Returns:
            Ids; none for an empty text.

        Raises:
            MessageError: half a surrogate pair stands in the text.
        """
        return self.engine.tokenize(text, special=special)

    def detokenize(self, ids: Sequence[int], *, special: bool = True) -> str:
        """Token ids to text.

        Args:
            ids: token ids.
            special: show control tokens; otherwise they are left out.

        Returns:
            The text; bytes that are no UTF-8 become U+FFFD.
        """
        return self.engine.detokenize(ids, special=special)

    def logits(self, ids: Sequence[int | Image | Audio | np.ndarray] | Prompt) -> np.ndarray:
        """Logits after each position of a prompt, computed afresh.

        Args:
            ids: token ids, <bos> included. Between them may stand Image and Audio, which are put between
                their control tokens, and arrays float32 [n, n_embd], which are decoded as they are (as a
                picture's).

        Returns:
            float32 [n_tokens, n_vocab]; rows inside media are NaN.
        """
        return self.engine.logits(ids.items if isinstance(ids, Prompt) else self.engine.items(ids))

    def embed(self, media: Image | Audio, *, image_tokens: ImageTokens | None = None) -> np.ndarray:
        """Embeddings of a picture or sound, as the model reads them.

        Args:
            media: it.
            image_tokens: budget of a picture that names none itself.

        Returns:
            float32 [n_tokens, n_embd].
        """
        self.engine.require_open()
        return self.engine.media.span(media, image_tokens).load()
