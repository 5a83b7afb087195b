"""Guided sampler: the tokens that a grammar allows next, and drawing among them.

llguidance walks the grammar and marks the allowed tokens of a vocabulary of 262,144 in well under a
millisecond; the logits of the others become minus infinity, and llama.cpp's own samplers draw as always. A
thought before the value is free, and so is text before a tool call that need not come.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from cachetools import LRUCache

from gemma4_gguf.engine import library
from gemma4_gguf.engine.member_names import MemberNames
from gemma4_gguf.engine.model import Model
from gemma4_gguf.engine.sampler import Sampler
from gemma4_gguf.errors import EngineError, GrammarError
from gemma4_gguf.grammars.grammar import Grammar
from gemma4_gguf.grammars.lark_writer import to_lark
from gemma4_gguf.grammars.notation import JSON, TOOL_CALL
from gemma4_gguf.special_tokens import MARKER_TEXT, QUOTE, Markers

# llama_token_attr (llama.h): what llguidance must not take for text
_UNKNOWN, _UNUSED, _CONTROL, _USER_DEFINED = 1, 2, 8, 16

_MAX_TABLES = 2  # some 60 MB each for the vocabulary of Gemma 4

# When a reply begins to follow its grammar.
Start = Literal["now", "after_thought", "at_call"]


class TokenTable:
    """What llguidance knows about one vocabulary. Building takes a second or two for a large one: see
    `token_table`. It outlives the model it was read from.

    Args:
        model: loaded.

    Raises:
        EngineError: no token of the vocabulary ends a reply.
    """

    def __init__(self, model: Model) -> None:
        llguidance = _llguidance()
        self.n_vocab = model.n_vocab
        self.banned = np.array(model.facts.banned_tokens, dtype=np.int64)
        ends = [token for token in model.facts.special_tokens.values() if model.ends_reply(token)]
        if not ends:
            raise EngineError(f"{model.facts.path}: no token of its vocabulary ends a reply.")
        self.ends = np.array(sorted(ends), dtype=np.int64)
        vocabulary = llguidance.TokenizerWrapper(_Vocabulary(model, sorted(ends)[0]))
        self.tokenizer: Any = llguidance.LLTokenizer(vocabulary, eos_token=sorted(ends))
        found = {text: model.token_id(text) for text in MARKER_TEXT.values()}
        self.markers: Mapping[str, int] = {text: i for text, i in found.items() if i is not None}

    def matcher(self, grammar: Grammar, *, literal: bool = False) -> Any:
        """A fresh llguidance matcher.

        Args:
            grammar: to follow.
            literal: markers spelled out in it are characters; otherwise they are the tokens.

        Returns:
            An llguidance.LLMatcher at the start of a text.

        Raises:
            GrammarError: llguidance refuses the grammar, for example because it is too large.
        """
        llguidance = _llguidance()
        text = to_lark(grammar, None if literal else self.markers)
        try:
            source = llguidance.LLMatcher.grammar_from_lark(text)
        except UnicodeEncodeError as error:
            before = text[max(0, error.start - 20) : error.start]
            raise GrammarError(
                f"{text[error.start]!r} after {before!r} in the grammar is half a surrogate pair: no reply "
                "can hold it"
            ) from error
        matcher = llguidance.LLMatcher(self.tokenizer, source, log_level=0)
        if matcher.is_error():
            raise GrammarError(
                f"llguidance cannot follow this grammar: {matcher.get_error().splitlines()[0]}"
            )
        return matcher


class _Vocabulary:
    """A vocabulary as llguidance asks for it."""

    def __init__(self, model: Model, end: int) -> None:
        attribute, vocab = library.llama().llama_vocab_get_attr, model.vocab
        self.eos_token_id, self.bos_token_id = end, model.bos
        self.tokens = [model.read_piece(token) for token in range(model.n_vocab)]
        special = set(model.facts.banned_tokens) | set(model.facts.special_tokens.values())
        for token, text in enumerate(self.tokens):
            if text[:1] in (b"<", b"[", b""):  # asking for all of them would take a second
                kind = attribute(vocab, token)
                marker = kind & _USER_DEFINED and text.startswith(b"<") and text.endswith(b">")
                if marker or kind & (_UNKNOWN | _UNUSED | _CONTROL):
                    special.add(token)
        self.special_token_ids = sorted(special)
        self._of_byte = {text: token for token, text in enumerate(self.tokens) if len(text) == 1}

    def __call__(self, data: bytes) -> list[int]:
        """Some tokenization. llguidance asks for one once, and masks do not rest on it."""
        return [self._of_byte.get(bytes([byte]), self.eos_token_id) for byte in data]


_tables: LRUCache[tuple[Any, ...], TokenTable] = LRUCache(_MAX_TABLES)
_tables_lock = threading.Lock()


def token_table(model: Model) -> TokenTable:
    """The table of a model file's vocabulary, built when first asked for and kept for later.

    Args:
        model: loaded.

    Returns:
        A table; one for all models of the same file.
    """
    status = model.facts.path.stat()
    key = (model.facts.path.resolve(), status.st_size, status.st_mtime_ns)
    with _tables_lock:
        table = _tables.get(key)
        if table is None:
            table = _tables[key] = TokenTable(model)
        return table


class Guide:
    """Follows one reply: tells which tokens may come next.

    Args:
        table: of the model's vocabulary.
        grammar: what the reply must be, or, with start "at_call", one tool call.
        markers: ids of the markers.
        literal: markers spelled out in the grammar are characters; otherwise they are the tokens.
        calls: tool calls that may come instead of what the grammar says.
        start: "now"; "after_thought", where a thought may come first; "at_call", where anything may come, and
            each call that does follows the grammar.
        in_thought: the prompt ends inside a thought.

    Raises:
        GrammarError: the grammar cannot be followed.
    """

    def __init__(
        self,
        table: TokenTable,
        grammar: Grammar,
        markers: Markers,
        *,
        literal: bool = False,
        calls: Grammar | None = None,
        start: Start = "now",
        in_thought: bool = False,
    ) -> None:
        self._table, self._markers = table, markers
        self._matcher = table.matcher(grammar, literal=literal)
        self._calls = None if calls is None else table.matcher(calls)
        self._start = start
        self._in_thought = in_thought
        # Markers that may stand in place of the grammar's first token.
        self._may_think = start == "after_thought" and not in_thought and markers.channel_open is not None
        self._may_call = self._calls is not None and markers.call_open is not None
        self._free = start == "at_call"
        self._written: list[int] = []
        self._names = self._reader(grammar)
        self._calls_names = None if calls is None else self._reader(calls)
        self._at_call_names = None if self._names is None else self._names.copy()
        self._bits = np.zeros((table.n_vocab + 31) // 32, dtype=np.int32)

    def _reader(self, grammar: Grammar) -> MemberNames | None:
        """What reads the names of members along; None for a grammar of whose notation nothing is known."""
        if grammar.base is JSON.base.rules:
            return MemberNames(in_call=False)
        if grammar.base is TOOL_CALL.base.rules and QUOTE in self._table.markers:
            return MemberNames(in_call=True)
        return None

    @property
    def complete(self) -> bool:
        """What was written so far is a whole reply."""
        return self._free or (not self._in_thought and bool(self._matcher.is_accepting()))

    @property
    def text(self) -> str:
        """What was written after the thought, and so far."""
        return self._table.tokenizer.decode_bytes(self._written).decode("utf-8", "replace")

    def accepts(self, text: str) -> bool:
        """Whether a text, the thought before it left out, is a whole reply.

        Args:
            text: of any length.

        Returns:
            False for a tool call.
        """
        matcher = self._matcher.deep_copy()
        matcher.reset()
        tokens = self._table.tokenizer.greedy_tokenize(text)
        return matcher.try_consume_tokens(tokens) == len(tokens) and bool(matcher.is_accepting())

    @property
    def n_tokens(self) -> int:
        """Tokens of the value so far; a tool call in its place counts as none."""
        return 0 if self._free or self._matcher is self._calls else len(self._written)

    @property
    def finished(self) -> bool:
        """What was written so far is a whole reply, and nothing can be added to it."""
        if not self.complete or self._free:
            return False
        mask = self.mask()
        return mask is not None and bool(mask.sum() == mask[self._table.ends].sum())

    def mask(self) -> np.ndarray | None:
        """Tokens that may come next.

        Returns:
            bool [n_vocab]; None where anything may come.

        Raises:
            GrammarError: nothing may come: the grammar is at a dead end.
        """
        if self._in_thought:
            return self._thought_mask()
        if self._free:
            return None
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._check()
        allowed = np.unpackbits(self._bits.view(np.uint8), bitorder="little")[: self._table.n_vocab].view(
            bool
        )
        allowed[self._table.banned] = False
        if self._may_think:
            allowed[self._markers.channel_open] = True
        if self._may_call:
            allowed[self._markers.call_open] = True
        if not allowed.any():
            raise GrammarError("the grammar is at a dead end: no token of this vocabulary goes on with it")
        return allowed

    def doubles(self, token: int) -> bool:
        """Whether a token that the mask allows would end the name of a member that its object has already.

        Args:
            token: its id.
        """
        if self._names is None or self._in_thought or self._free or self._is_marker(token):
            return False
        data = self._table.tokenizer.decode_bytes([token])
        ends = b":" if self._names.in_call else b'"'
        return ends in data and not self._names.copy().feed(data)

    def _is_marker(self, token: int) -> bool:
        return token in self._table.markers.values() or token in self._table.ends

    def _read_names(self, token: int) -> None:
        """Reads the names of members along."""
        if self._names is None:
            return
        if token == self._table.markers.get(QUOTE) and self._names.in_call:
            self._names.quote()
        elif not self._is_marker(token):
            self._names.feed(self._table.tokenizer.decode_bytes([token]))

    def commit(self, token: int) -> None:
        """Takes the token that was drawn.

        Args:
            token: its id.

        Raises:
            GrammarError: it was not allowed.
        """
        markers = self._markers
        if self._in_thought:
            self._in_thought = token != markers.channel_close
        elif self._free:
            self._free = token != markers.call_open
            if not self._free:
                self._matcher.reset()
                self._names = None if self._at_call_names is None else self._at_call_names.copy()
                self._consume(token)
        elif self._may_think and token == markers.channel_open:
            self._in_thought, self._may_think = True, False
        else:
            if self._may_call and token == markers.call_open:
                self._matcher, self._names = self._calls, self._calls_names
            self._may_think = self._may_call = False
            self._consume(token)
            if self._start == "at_call" and token == markers.call_close:
                self._free = True

    def _consume(self, token: int) -> None:
        if not self._matcher.consume_token(token):
            self._check()
            raise GrammarError(f"token {token} does not fit the grammar")
        if token not in self._table.ends:
            self._written.append(token)
        self._read_names(token)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(f"the grammar engine gave up: {_first_line(self._matcher)}")

    def _thought_mask(self) -> np.ndarray:
        """A thought may hold anything but the end of the reply, calls and turns."""
        allowed = np.ones(self._table.n_vocab, dtype=bool)
        markers = self._markers
        barred = (markers.call_open, markers.response_open, markers.turn_open, markers.channel_open)
        allowed[self._table.ends] = False
        allowed[[token for token in barred if token is not None]] = False
        allowed[self._table.banned] = False
        return allowed


class GuidedSampler:
    """A sampler whose draws follow a guide. Stands in for `Sampler`.

    Args:
        sampler: how to draw; it is closed with this.
        guide: what may be drawn.
        n_vocab: size of the vocabulary.
    """

    def __init__(self, sampler: Sampler, guide: Guide, n_vocab: int) -> None:
        self._sampler, self.guide, self._n_vocab = sampler, guide, n_vocab
        self._lib = library.llama()
        self._ids = np.arange(n_vocab, dtype=np.int32)
        layout = [("id", np.int32), ("logit", np.float32), ("p", np.float32)]
        self._candidates = np.zeros(n_vocab, dtype=layout)  # llama_token_data

    def draw(self, context: Any, row: int = -1) -> int:
        """Draws a token that fits, from the logits of the last decode.

        Args:
            context: handle of the llama_context.
            row: which token of the last batch; -1 is the last one with logits.

        Returns:
            Its id.

        Raises:
            GrammarError: none does.
        """
        mask = self.guide.mask()
        if mask is None:
            token = self._sampler.draw(context, row)
        else:
            token = self._among(mask, context, row)
            while self.guide.doubles(token) and np.count_nonzero(mask) > 1:
                mask[token] = False
                token = self._among(mask, context, row)
            self._lib.llama_sampler_accept(self._sampler.handle, token)
        self.guide.commit(token)
        return token

    def close(self) -> None:
        """Frees the sampler. Calling it again does nothing."""
        self._sampler.close()

    def _among(self, mask: np.ndarray, context: Any, row: int) -> int:
        lib, candidates = self._lib, self._candidates
        logits = np.ctypeslib.as_array(self._sampler.scores(context, row), (self._n_vocab,))
        candidates["id"] = self._ids
        candidates["logit"] = np.where(mask, logits, np.float32(-np.inf))
        array = lib.llama_token_data_array(
            data=candidates.ctypes.data_as(lib.llama_token_data_p),
            size=self._n_vocab,
            selected=-1,
            sorted=False,
        )
        lib.llama_sampler_apply(self._sampler.handle, ctypes.byref(array))
        token = int(candidates["id"][array.selected])
        if not mask[token]:
            raise GrammarError("no token that fits the grammar has a finite score")
        return token


def _first_line(matcher: Any) -> str:
    return next(iter(matcher.get_error().splitlines()), "no reason given")


def _llguidance() -> Any:
    import llguidance

    return llguidance
