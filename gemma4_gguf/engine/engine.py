"""Engine: one loaded model. Opens and frees, tokenizes, embeds, and gives tokens, logits and states.

Everything that wants tokens goes through `Engine.tokens`; nobody else decodes.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence

import numpy as np

from gemma4_gguf.cpu_cores import physical_cores
from gemma4_gguf.engine import library
from gemma4_gguf.engine.context import Context
from gemma4_gguf.engine.guided_sampler import Guide, Start, token_table
from gemma4_gguf.engine.kv_cache import Item, MediaSpan, SavedSequence, SequencePool
from gemma4_gguf.engine.media_encoder import MediaEncoder
from gemma4_gguf.engine.model import Model
from gemma4_gguf.engine.projector import Projector
from gemma4_gguf.engine.token_stream import TokenRequest, TokenStream
from gemma4_gguf.errors import GGUFError, MessageError, OptionError, StateError
from gemma4_gguf.files.model_file import ModelFacts
from gemma4_gguf.files.projector_file import ProjectorFacts
from gemma4_gguf.grammars.grammar import Grammar
from gemma4_gguf.options import SessionOptions
from gemma4_gguf.special_tokens import MEDIA_BEGIN, MEDIA_END, Markers
from gemma4_gguf.types import Audio, Image, modality_of


class Engine:
    """A model with its projector and a context, opened once.

    Args:
        model: facts of the model file.
        projector: facts of its projector; None goes without.
        options: how it is opened.
        why_no_projector: what to say to pictures and sounds without one, in a sentence.

    Attributes:
        facts: of the model file.
        options: it was opened with.
        markers: of its vocabulary.
        model: its weights and vocabulary.
        projector: None without one.
        media: pictures and sounds to spans.
        context: that decodes.
        pool: the sequences of the context.

    Raises:
        OptionError: an option is out of range.
        DeviceError: this build of llama.cpp has no such device.
        EngineError: llama.cpp is too old or cannot load the files.
    """

    def __init__(
        self,
        model: ModelFacts,
        projector: ProjectorFacts | None,
        options: SessionOptions,
        *,
        why_no_projector: str = "",
    ) -> None:
        self.facts, self.options = model, options
        self.markers = Markers.of_model(model.special_tokens)
        self.projector: Projector | None = None
        self.model = Model(
            model,
            device=options.device,
            n_gpu_layers=options.n_gpu_layers,
            release_pages=options.release_pages,
        )
        # Frees everything also when the engine is only forgotten.
        self._finalizer = weakref.finalize(self, self.model.lifetime.close)
        self._finalizer.atexit = False
        try:
            if projector is not None:
                n_threads = options.n_threads or physical_cores()
                self.projector = Projector(
                    projector.path, self.model, n_threads=n_threads, use_gpu=self.model.on_gpu
                )
            vision = self.projector is not None and self.projector.has_vision
            self.context = Context(self.model, options, vision=vision)
        except BaseException:
            self.close()
            raise
        self.media = MediaEncoder(
            self.projector,
            bidirectional_images=model.bidirectional_images,
            why_no_projector=why_no_projector,
        )
        self.pool = SequencePool(options.n_seq, self.model.lifetime)

    @property
    def n_ctx(self) -> int:
        """Tokens that one conversation can hold."""
        return self.context.n_ctx

    @property
    def is_open(self) -> bool:
        """It was not closed."""
        return not self.model.lifetime.is_over

    def close(self) -> None:
        """Stops what is computed for other threads, waits for it, and frees everything.

        Calling it again does nothing.
        """
        self._finalizer()

    def require_open(self) -> None:
        """Checks that it is open: llama.cpp would read freed memory.

        Raises:
            EngineError: it was closed, or opened before this process was forked.
        """
        self.model.lifetime.require()

    # Vocabulary and media

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Text to token ids, without <bos>.

        Args:
            text: of any length.
            special: read control tokens out of the text; otherwise they are plain characters.

        Returns:
            Ids; none for an empty text.

        Raises:
            MessageError: half a surrogate pair stands in the text.
        """
        self.require_open()
        return self.model.tokenize(text, special=special)

    def detokenize(self, ids: Sequence[int], *, special: bool = True) -> str:
        """Token ids to text; bytes that are no UTF-8 become U+FFFD.

        Args:
            ids: token ids.
            special: show control tokens as written; otherwise they are left out.

        Returns:
            The text.

        Raises:
            MessageError: an id is not in the vocabulary.
        """
        self.require_open()
        return self.model.detokenize(ids, special=special)

    def framed(self, kind: str, span: MediaSpan) -> list[Item]:
        """A span between the control tokens that mark its begin and end.

        Args:
            kind: "image" or "audio".
            span: of the medium.

        Returns:
            Id, span, id.

        Raises:
            GGUFError: the vocabulary lacks one of these tokens.
        """
        ids = []
        for marker in (MEDIA_BEGIN[kind], MEDIA_END[kind]):
            token = self.model.token_id(marker)
            if token is None:
                raise GGUFError(
                    f"{self.facts.path}: {marker} is no control token of its vocabulary, so the model cannot "
                    f"read {kind} parts. Convert the checkpoint again."
                )
            ids.append(token)
        return [ids[0], span, ids[1]]

    def items(self, entries: Iterable[int | Image | Audio | np.ndarray]) -> list[Item]:
        """Checks a prompt that was put together by hand.

        Args:
            entries: token ids; Image and Audio, which are put between their control tokens; arrays float32
                [n, n_embd], which are decoded as they are (as a picture's).

        Returns:
            Token ids and media spans, at least one.

        Raises:
            MessageError: an id is outside the vocabulary, an array of another shape, or there is nothing.
            MediaError: a medium cannot be read.
        """
        self.require_open()
        items: list[Item] = []
        for place, entry in enumerate(entries):
            modality = modality_of(entry)
            if isinstance(entry, (Image, Audio)) and modality is not None:
                items += self.framed(modality.kind, self.media.span(entry))
            elif isinstance(entry, np.ndarray) and entry.ndim:
                items.append(self._bare_span(entry, place))
            else:
                items.append(int(entry))  # type: ignore[arg-type]
        self._check(items)
        return items

    def _check(self, items: Sequence[Item]) -> None:
        """Refuses a prompt on which llama.cpp would fail, or end the process."""
        self.require_open()
        if not items:
            raise MessageError("There are no tokens; expected at least one.")
        self.model.require_tokens([item for item in items if isinstance(item, int)])

    def _bare_span(self, array: np.ndarray, place: int) -> MediaSpan:
        n_embd = self.model.n_embd
        if array.ndim != 2 or array.shape[1] != n_embd or not len(array):
            raise MessageError(
                f"ids[{place}] is an array of shape {list(array.shape)}; expected [n, {n_embd}]."
            )
        return MediaSpan(f"array {place}", len(array), lambda: array, self.facts.bidirectional_images)

    # Numbers

    def tokens(self, request: TokenRequest) -> TokenStream:
        """Gives the tokens of a reply as they are drawn.

        Args:
            request: the prompt, how to draw, what to follow.

        Returns:
            A stream; nothing is computed before its first token is asked for.

        Raises:
            ContextFullError: the prompt is longer than the context.
            MessageError: it is empty, or an id of it is outside the vocabulary.
            OptionError: n_top is out of range, or logit_bias names an id that is outside the vocabulary.
        """
        self._check(request.items)
        for token, _ in request.sampling.logit_bias:
            if not 0 <= token < self.model.n_vocab:
                last = self.model.n_vocab - 1
                raise OptionError(f"logit_bias names token {token}; ids of this vocabulary are 0 to {last}.")
        if request.n_top is not None and not 0 <= request.n_top <= self.model.n_vocab:
            raise OptionError(f"n_top is {request.n_top}; expected 0 to {self.model.n_vocab}, or None.")
        return TokenStream(self.context, self.pool, request)

    def guide(
        self,
        grammar: Grammar,
        *,
        literal: bool = False,
        calls: Grammar | None = None,
        start: Start = "now",
        in_thought: bool = False,
    ) -> Guide:
        """Makes what a request follows.

        Args:
            grammar: what the reply must be, or, with start "at_call", one tool call.
            literal: markers spelled out in it are characters; otherwise they are the tokens.
            calls: tool calls that may come instead of what the grammar says.
            start: as for `Guide`.
            in_thought: the prompt ends inside a thought.

        Returns:
            A guide at the start of a reply.

        Raises:
            GrammarError: the grammar cannot be followed.
        """
        table = token_table(self.model)
        return Guide(
            table, grammar, self.markers, literal=literal, calls=calls, start=start, in_thought=in_thought
        )

    def logits(self, items: Sequence[Item]) -> np.ndarray:
        """Logits after each position of a prompt, computed afresh.

        Args:
            items: token ids and media spans, at least one.

        Returns:
            float32 [n_tokens, n_vocab]; rows inside media are NaN.

        Raises:
            ContextFullError: it is longer than the context.
            MessageError: it is empty, or an id of it is outside the vocabulary.
        """
        self._check(items)
        with self.pool.lend(()) as state, self.context.lock:
            state.dirty = True  # nothing is reused
            self.context.fit(state, items)
            return self.context.all_logits(state, items)

    # Whole sequences

    def export_sequence(self, owner: object, items: Sequence[Item]) -> SavedSequence | None:
        """Copies what the next prompt of somebody would keep of the cache: the state right there.

        A state can only be gone on from, as the window before any earlier place is not in it. So the
        sequence goes back first to where the next prompt will leave it.

        Args:
            owner: who used a sequence last.
            items: the beginning of what comes next.

        Returns:
            None if the cache holds nothing of it any more.

        Raises:
            EngineError: the owner's reply is still being streamed, or llama.cpp cannot write the state.
        """
        with self.pool.lend_own(owner) as state:
            if state is None:
                return None
            with self.context.lock:
                self.context.fit(state, items)
                if not state.items:
                    return None
                return SavedSequence(tuple(state.items), self.context.reuse.read(state))

    def import_sequence(self, owner: object, saved: SavedSequence) -> None:
        """Puts a state into the cache, for the next prompt of somebody.

        Args:
            owner: who comes with it.
            saved: of the same model, library and options.

        Raises:
            StateError: llama.cpp does not take it.
            EngineError: all sequences are in mid-reply.
        """
        self._check(saved.items)
        if saved.n_past > self.n_ctx:
            raise StateError(f"This state holds {saved.n_past:,} tokens, the context {self.n_ctx:,}.")
        with self.pool.lend(saved.items, owner) as state, self.context.lock, library.complaints() as said:
            if not self.context.reuse.write(state, saved.items, saved.data):
                raise StateError(f"llama.cpp does not take this state.{library.quote(said)}")
