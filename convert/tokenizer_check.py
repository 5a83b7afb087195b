"""Tokenizer check: whether llama.cpp will read a text as the tokenizer.json of the checkpoint does.

llama.cpp has Gemma 4's way of reading built in and takes only tokens and merges from a file: spaces become
U+2581, the text is cut at line breaks, merges run over the rest, unknown characters fall back to bytes
(llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_GEMMA4). A tokenizer.json that says otherwise would give other ids than
the model was trained on, without a word. Parts that amount to the same are known; for any other part, example
texts are read both ways.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

from gemma4_gguf.convert.json_section import shown
from gemma4_gguf.convert.tokenizer_pieces import SPACE, Part, UnknownPiece, normalize, parts, split
from gemma4_gguf.errors import CheckpointError

EXAMPLES = (
    "Hello world! Caf\u00e9 d\u00e9j\u00e0 vu \u2014 123 \U0001f60a",
    "  two  spaces,   three ",
    "first line\nsecond line\n\n\nlast",
    "Don't SHOUT: it's 3.14159, not 2024-01-02!",
    "e\u0301 \ufb01 \uff21\uff22 \u2460 \u00bd \u212b",
    "\u4f60\u597d\uff0c\u4e16\u754c \u3053\u3093\u306b\u3061\u306f",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u0645\u0631\u062d\u0628\u0627",
    "\tdef f(x):\r\n\treturn x**2  # (x + 1) % 10",
    'a_b-c/d.e@f <b>bold</b> {"k": [1, 22, 333]}',
    "word",
    " ",
)
# Texts that are tokens already, tried where a part may look whole texts up.
_MOST_TOKENS = 4000
_LONGEST = 200  # characters of a text that is read both ways, which takes time by its square
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_WAY_OUT = (
    "llama.cpp has one way of reading text for Gemma 4 and cannot follow it. Take the tokenizer.json of the "
    "model that this one was made from."
)


@dataclass(frozen=True)
class Bpe:
    """Tokens and merges.

    Args:
        ids: id of every token.
        ranks: merges, best first.
        whole: whether a piece that is a token is looked up before merges are tried.
    """

    ids: Mapping[str, int]
    ranks: Mapping[tuple[str, str], int]
    whole: bool = False

    def encode(self, pieces: Sequence[str]) -> list[int]:
        """Ids of a text cut in pieces; characters that are no tokens become bytes."""
        return [index for piece in pieces for index in self._piece(piece)]

    def _piece(self, piece: str) -> Iterator[int]:
        lookup = self.whole or not piece.strip("\n")
        symbols = [piece] if lookup and piece in self.ids else list(piece)
        while len(symbols) > 1:
            pairs = [self.ranks.get(pair, len(self.ranks)) for pair in pairwise(symbols)]
            best = min(pairs)
            if best == len(self.ranks):
                break
            at = pairs.index(best)
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        for symbol in symbols:
            if symbol in self.ids:
                yield self.ids[symbol]
            else:
                named = [f"<0x{byte:02X}>" for byte in symbol.encode("utf-8", "surrogatepass")]
                yield from (self.ids.get(name, self.ids.get("<unk>", -1)) for name in named)


def check_tokenizer(
    tokenizer: Mapping[str, Any], bpe: Bpe, special: Mapping[str, int], where: str
) -> list[str]:
    """Compares the parts of a tokenizer.json with what llama.cpp does.

    Args:
        tokenizer: the parsed file; its vocabulary has been checked.
        bpe: its tokens and merges.
        special: kind of special token, such as "bos", to its id.
        where: path of the file.

    Returns:
        Notes on parts that seem to make no difference.

    Raises:
        CheckpointError: a part gives other ids, or cannot be followed; with an example and both lists.
    """
    check = _Check(tokenizer, bpe, where)
    check.added_tokens()
    check.surroundings(special)
    return [*check.model(), *check.reading(), *check.line_breaks(), *check.decoder()]


def template_pieces(template: Mapping[str, Any], key: str) -> list[str | None]:
    """The special tokens of a TemplateProcessing in order, None where a text stands.

    Args:
        template: the post-processor.
        key: "single" or "pair".
    """
    pieces = template.get(key)
    tokens = []
    for piece in pieces if isinstance(pieces, list) else []:
        special = piece.get("SpecialToken") if isinstance(piece, dict) else None
        name = special.get("id") if isinstance(special, dict) else None
        tokens.append(name if isinstance(name, str) else None)
    return tokens


class _Check:
    def __init__(self, tokenizer: Mapping[str, Any], bpe: Bpe, where: str) -> None:
        self._all, self._bpe, self._where = tokenizer, bpe, where

    def model(self) -> Iterator[str]:
        """Options of the BPE model itself."""
        model = self._all["model"]
        for key in ("continuing_subword_prefix", "end_of_word_suffix"):
            if model.get(key):
                raise self._refusal(f"model.{key} is {shown(model[key])}")
        if model.get("dropout"):
            yield f"{self._where}: model.dropout makes ids random in training; it is left out."
        if model.get("ignore_merges"):
            whole = Bpe(self._bpe.ids, self._bpe.ranks, whole=True)
            named = {token["content"] for token in self._all.get("added_tokens") or []}
            normal = (
                t for t in model["vocab"] if t not in named and len(t) <= _LONGEST and not _BYTE.fullmatch(t)
            )
            tokens = (token.replace(SPACE, " ") for token in islice(normal, _MOST_TOKENS))
            yield from self._compare(
                "model.ignore_merges is true", lambda text: whole.encode(_pieces(text)), tokens
            )
        missing = [f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" not in self._bpe.ids]
        if missing:
            yield (
                f"{self._where} has no token {missing[0]} ({len(missing)} bytes are missing): llama.cpp "
                "drops characters that need it."
            )

    def reading(self) -> Iterator[str]:
        """Normalizer and pre-tokenizer."""
        try:
            normalizers = parts(self._all.get("normalizer"), "normalizers")
            cutters = parts(self._all.get("pre_tokenizer"), "pretokenizers")
        except UnknownPiece:
            raise self._refusal("normalizer or pre_tokenizer is built in an unknown way") from None
        marks = _replaces_spaces(normalizers) or (not normalizers and _marks_spaces(cutters))
        odd = [] if marks else [f"normalizer is {_named(normalizers)}"]
        cut = [part for part in cutters if not self._is_neutral(part)]
        if cut:
            odd.append(f"pre_tokenizer is {_named(cut)}")
        if odd:

            def own(text: str) -> list[int]:
                for part in normalizers:
                    text = normalize(part, text)
                    if len(text) > _LONGEST:
                        raise UnknownPiece
                pieces = [text]
                for part in cutters:
                    pieces = [piece for whole in pieces for piece in split(part, whole)]
                return self._bpe.encode(pieces)

            yield from self._compare(" and ".join(odd), own, ())

    def added_tokens(self) -> None:
        """Flags of added tokens, which llama.cpp finds wherever their text stands."""
        space, word = self._bpe.encode([SPACE]), self._bpe.encode(["a"])
        for token in self._all.get("added_tokens") or []:
            content, index = token["content"], token["id"]
            flags = [flag for flag in ("lstrip", "rstrip", "single_word") if token.get(flag)]
            if not flags:
                continue
            if len(content) > _LONGEST:
                raise self._refusal(f"added token {shown(content)} has {flags[0]}")
            inside = [*word, *self._bpe.encode(_pieces(content))]
            for flag, text, here, there in (
                ("lstrip", f" {content}", [index], [*space, index]),
                ("rstrip", f"{content} ", [index], [index, *space]),
                ("single_word", f"a{content}", inside, [*word, index]),
            ):
                if flag == flags[0]:
                    raise self._refusal(f"added token {shown(content)} has {flag}", text, here, there)

    def surroundings(self, special: Mapping[str, int]) -> None:
        """Tokens put around every text: llama.cpp knows of <bos> before it and <eos> after it."""
        try:
            steps = parts(self._all.get("post_processor"), "processors")
        except UnknownPiece:
            raise self._refusal("post_processor is built in an unknown way") from None
        for step in steps:
            kind = step["type"]
            if kind == "ByteLevel":
                continue
            before: list[str | None]
            if kind == "TemplateProcessing":
                single = template_pieces(step, "single")
                at = single.index(None) if None in single else len(single)
                before, after = single[:at], single[at + 1 :]
            elif kind in ("BertProcessing", "RobertaProcessing"):
                before, after = [_first(step.get("cls"))], [_first(step.get("sep"))]
            else:
                raise self._refusal(f"post_processor is {shown(kind)}")
            ids = [[self._bpe.ids.get(str(token), -1) for token in side] for side in (before, after)]
            if ids[0] in ([], [special.get("bos")]) and ids[1] in ([], [special.get("eos")]):
                continue
            word = self._bpe.encode(["word"])
            around = f"{_spelled(before)} before every text and {_spelled(after)} after it"
            there = [index for index in [special.get("bos")] if index is not None]
            raise self._refusal(
                f"post_processor puts {around}", "word", [*ids[0], *word, *ids[1]], [*there, *word]
            )

    def line_breaks(self) -> Iterator[str]:
        """Tokens across line breaks, which llama.cpp never forms."""
        for left, right in self._bpe.ranks:
            text = left + right
            if "\n" in text and text.strip("\n") and len(text) <= _LONGEST:
                here, there = self._bpe.encode([text]), self._bpe.encode(_pieces(text))
                yield (
                    f"{self._where}: {text!r:.60} is one token that crosses a line break, which llama.cpp "
                    f"does not form: {here} here, {there} there. Published vocabularies have none."
                )
                return

    def decoder(self) -> Iterator[str]:
        """What makes text of ids again; it changes no id."""
        try:
            found = parts(self._all.get("decoder"), "decoders")
        except UnknownPiece:
            found = [{"type": "unknown"}]
        kinds = [part["type"] for part in found if part["type"] != "Fuse"]
        known = kinds in (["Replace", "ByteFallback"], ["ByteFallback", "Replace"], ["Metaspace"])
        spaces = ({"String": SPACE}, " ")
        swaps = [(p.get("pattern"), p.get("content")) for p in found if p["type"] == "Replace"]
        if found and not (known and all(swap == spaces for swap in swaps)):
            yield (
                f"{self._where}: decoder is {_named(found)}; llama.cpp writes {SPACE} as a space and joins "
                "bytes, so texts may look different."
            )

    def _is_neutral(self, part: Part) -> bool:
        """Whether a pre-tokenizer cuts nothing that merges could join, or only where llama.cpp cuts, too."""
        if part["type"] == "Metaspace":
            at = SPACE if part.get("split") is not False else ""
            if part.get("prepend_scheme", "always") != "never":
                return False
            return not at or not self._crosses(SPACE, "MergedWithNext")
        if part["type"] != "Split" or part.get("invert"):
            return False
        pattern = part.get("pattern")
        text = next(iter(pattern.values()), None) if isinstance(pattern, dict) else None
        if text == " ":
            return True  # there are no spaces left
        if text == SPACE:
            return not self._crosses(SPACE, part.get("behavior"))
        return pattern in ({"Regex": "\n+"}, {"Regex": r"\n+"}) and part.get("behavior") == "Isolated"

    def _crosses(self, mark: str, behavior: Any) -> bool:
        """Whether a merge joins what a cut at a mark keeps apart."""
        ends: dict[str, Callable[[str], str]] = {
            "MergedWithPrevious": lambda token: token[:-1],
            "MergedWithNext": lambda token: token[1:],
        }
        inner = ends.get(str(behavior))
        return inner is None or any(mark in inner(left + right) for left, right in self._bpe.ranks)

    def _compare(self, what: str, own: Callable[[str], list[int]], more: Any) -> Iterator[str]:
        count = 0
        for text in [*EXAMPLES, *more]:
            try:
                here = own(text)
            except UnknownPiece:
                raise self._refusal(what) from None
            there = self._bpe.encode(_pieces(text))
            if here != there:
                raise self._refusal(what, text, here, there)
            count += 1
        yield f"{self._where}: {what}, unlike Gemma 4's; {count} example texts gave the same ids."

    def _refusal(
        self,
        what: str,
        text: str | None = None,
        here: Sequence[int] = (),
        there: Sequence[int] = (),
    ) -> CheckpointError:
        example = ""
        if text is not None:
            example = f"{text!r} is {list(here)} here and would be {list(there)} in llama.cpp. "
        return CheckpointError(f"{self._where}: {what}. {example}{_WAY_OUT}")


def _pieces(text: str) -> list[str]:
    """A text as llama.cpp cuts it before the merges."""
    return re.findall(r"[^\n]+|\n+", text.replace(" ", SPACE))


def _first(pair: Any) -> str:
    return str(pair[0]) if isinstance(pair, list) and pair else ""


def _spelled(tokens: Sequence[str | None]) -> str:
    return " ".join(shown(token or "a text") for token in tokens) or "nothing"


def _replaces_spaces(normalizers: Sequence[Part]) -> bool:
    if len(normalizers) != 1 or normalizers[0]["type"] != "Replace":
        return False
    pattern = normalizers[0].get("pattern")
    return pattern in ({"String": " "}, {"Regex": " "}) and normalizers[0].get("content") == SPACE


def _marks_spaces(cutters: Sequence[Part]) -> bool:
    first = cutters[0] if cutters else {"type": ""}
    return first["type"] == "Metaspace" and first.get("replacement", SPACE) == SPACE


def _named(found: Sequence[Part]) -> str:
    """Parts in a few words, such as "Split(Regex: \\d), Digits"."""
    words = []
    for part in found:
        pattern = part.get("pattern")
        inside = [f"{k}: {shown(v)!r:.80}" for k, v in pattern.items()] if isinstance(pattern, dict) else []
        words.append(shown(part["type"]) + (f"({', '.join(inside)})" if inside else ""))
    return ", ".join(words) or "missing"
