"""Tokenizer pieces: what the parts of a tokenizer.json do to a text, in a few words of Python each.

Enough to tell two tokenizers apart on an example, not to tokenize: that is the tokenizers library's work,
which a conversion does not need otherwise. A part without an equivalent here raises UnknownPiece.
"""

from __future__ import annotations

import functools
import itertools
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

SPACE = "\u2581"  # stands for a space in the tokens

_MOST_PARTS = 16
_MOST_REPEATS = 4  # in one alternative; more may take Python's re for ever

# What ByteLevel cuts by unless told otherwise (tokenizers, byte_level.rs).
_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

Part = Mapping[str, Any]
Segments = list[tuple[str, bool]]  # text, and whether the pattern matched it


class UnknownPiece(Exception):
    """A part that only the tokenizers library can follow."""


def parts(value: Any, inner: str, depth: int = 0) -> list[Part]:
    """The parts of a section in order, sequences within sequences opened.

    Args:
        value: the section as parsed; null has no parts.
        inner: key under which a Sequence keeps its parts.
        depth: sequences around it.

    Raises:
        UnknownPiece: it is built otherwise.
    """
    if value is None:
        return []
    if not isinstance(value, dict) or not isinstance(value.get("type", "Sequence"), str):
        raise UnknownPiece
    if value.get("type", "Sequence") != "Sequence":
        return [value]
    within = value.get(inner)
    if not isinstance(within, list) or len(within) > _MOST_PARTS or depth > _MOST_PARTS:
        raise UnknownPiece
    return [part for one in within for part in parts(one, inner, depth + 1)]


# Normalizers


def normalize(part: Part, text: str) -> str:
    """A text as one normalizer leaves it."""
    kind = part["type"]
    if kind in ("NFC", "NFD", "NFKC", "NFKD"):
        return unicodedata.normalize(kind, text)
    if kind == "Lowercase":
        return text.lower()
    if kind == "StripAccents":
        return "".join(c for c in text if unicodedata.category(c) != "Mn")
    if kind == "Replace":
        return pattern_of(part).sub(lambda match: str(part.get("content", "")), text)
    if kind == "Prepend":
        return str(part.get("prepend", "")) + text if text else text
    if kind == "Strip":
        text = text.lstrip() if part.get("strip_left", True) else text
        return text.rstrip() if part.get("strip_right", True) else text
    raise UnknownPiece


# Pre-tokenizers


def split(part: Part, text: str) -> list[str]:
    """The pieces into which one pre-tokenizer cuts a text."""
    kind = part["type"]
    if kind == "Split":
        segments = _segments(text, pattern_of(part))
        if part.get("invert"):
            segments = [(piece, not matched) for piece, matched in segments]
        return _join(segments, str(part.get("behavior")))
    if kind in ("Metaspace", "ByteLevel"):
        return _metaspace(part, text) if kind == "Metaspace" else _byte_level(part, text)
    if kind == "Digits":
        digits = _by_character(text, lambda c: unicodedata.category(c)[0] == "N")
        return _join(digits, "Isolated" if part.get("individual_digits") else "Contiguous")
    if kind == "Punctuation":
        return _join(_by_character(text, _is_punctuation), str(part.get("behavior", "Isolated")))
    if kind == "WhitespaceSplit":
        return text.split()
    if kind == "Whitespace":
        return re.findall(r"\w+|[^\w\s]+", text)
    if kind == "BertPreTokenizer":
        return [p for word in text.split() for p in _join(_by_character(word, _is_punctuation), "Isolated")]
    if kind == "CharDelimiterSplit":
        return [piece for piece in text.split(str(part.get("delimiter"))) if piece]
    raise UnknownPiece


def _metaspace(part: Part, text: str) -> list[str]:
    mark = str(part.get("replacement", SPACE))
    text = text.replace(" ", mark)
    if part.get("prepend_scheme", "always") != "never" and not text.startswith(mark):
        text = mark + text
    if part.get("split") is False:
        return [text]
    return _join(_segments(text, re.compile(re.escape(mark))), "MergedWithNext")


def _byte_level(part: Part, text: str) -> list[str]:
    if part.get("add_prefix_space", True) and not text[:1].isspace():
        text = " " + text
    words = [text]
    if part.get("use_regex") is not False:
        words = [word for word, _ in _segments(text, re.compile(_python_regex(_GPT2)))]
    return ["".join(_byte_characters()[byte] for byte in word.encode()) for word in words]


@functools.cache
def _byte_characters() -> list[str]:
    """The character that stands for each byte in byte-level vocabularies: itself where it can be seen."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = itertools.count(0x100)
    return [chr(byte if byte in shown else next(hidden)) for byte in range(256)]


def _segments(text: str, pattern: re.Pattern[str]) -> Segments:
    found, end = [], 0
    for match in pattern.finditer(text):
        found += [(text[end : match.start()], False), (match[0], True)]
        end = match.end()
    return [(piece, matched) for piece, matched in [*found, (text[end:], False)] if piece]


def _by_character(text: str, test: Callable[[str], bool]) -> Segments:
    """Every character that passes by itself, and what stands between them."""
    found: Segments = []
    for character in text:
        matched = test(character)
        if found and not matched and not found[-1][1]:
            found[-1] = (found[-1][0] + character, False)
        else:
            found.append((character, matched))
    return found


def _is_punctuation(character: str) -> bool:
    ascii_marks = character.isascii() and character.isprintable() and not character.isalnum()
    return (ascii_marks and character != " ") or unicodedata.category(character)[0] == "P"


def _join(segments: Segments, behavior: str) -> list[str]:
    if behavior == "Isolated":
        return [piece for piece, _ in segments]
    if behavior == "Removed":
        return [piece for piece, matched in segments if not matched]
    if behavior == "MergedWithPrevious":
        return ["".join(run) for run in _merged(segments)]
    if behavior == "MergedWithNext":
        return ["".join(reversed(run)) for run in reversed(list(_merged(reversed(segments))))]
    if behavior == "Contiguous":
        runs: list[tuple[str, bool]] = []
        for piece, matched in segments:
            if runs and runs[-1][1] == matched:
                runs[-1] = (runs[-1][0] + piece, matched)
            else:
                runs.append((piece, matched))
        return [piece for piece, _ in runs]
    raise UnknownPiece


def _merged(segments: Iterable[tuple[str, bool]]) -> Iterator[list[str]]:
    """Runs in which a match joins what came before it, unless that was a match as well."""
    run: list[str] = []
    before = False
    for piece, matched in segments:
        if run and matched and not before:
            run.append(piece)
        else:
            if run:
                yield run
            run = [piece]
        before = matched
    if run:
        yield run


# Patterns


def pattern_of(part: Part) -> re.Pattern[str]:
    """The pattern of a Replace or Split: a text, or a regular expression of Oniguruma.

    Raises:
        UnknownPiece: Python's re has nothing like it.
    """
    pattern = part.get("pattern")
    if isinstance(pattern, dict) and isinstance(pattern.get("String"), str) and pattern["String"]:
        return re.compile(re.escape(pattern["String"]))
    if not isinstance(pattern, dict) or not isinstance(pattern.get("Regex"), str):
        raise UnknownPiece
    if not _is_quick(pattern["Regex"]):
        raise UnknownPiece
    try:
        return re.compile(_python_regex(pattern["Regex"]))
    except (re.error, RecursionError, OverflowError) as error:
        raise UnknownPiece from error


def _is_quick(regex: str) -> bool:
    """Whether trying it on a line of text takes no time: no group is repeated, and little else."""
    plain = re.sub(r"\[[^\]]*\]", "x", re.sub(r"\\.", "x", regex))
    alternatives = plain.split("|")
    few = all(len(re.findall(r"[*+{]", one)) <= _MOST_REPEATS for one in alternatives)
    return len(regex) <= 2000 and few and not re.search(r"\)[*+{]", plain)


_PROPERTY = re.compile(r"\\([pP])\{(\^?)([A-Za-z]{1,2})\}|\\.|[\[\]]", re.DOTALL)


def _python_regex(regex: str) -> str:
    """`\\p{L}` written as ranges of characters, which is all that such patterns need."""
    depth = 0

    def written(match: re.Match[str]) -> str:
        nonlocal depth
        if match[1] is None:
            depth += {"[": 1, "]": -1}.get(match[0], 0)
            return match[0]
        negated = (match[1] == "P") != (match[2] == "^")
        if negated and depth:
            raise UnknownPiece
        ranges = _category(match[3])
        return ranges if depth else f"[{'^' if negated else ''}{ranges}]"

    return _PROPERTY.sub(written, regex)


def _category(name: str) -> str:
    """The characters of a Unicode category such as "L" or "Lu", as the inside of a character class."""
    ranges = [f"\\U{start:08x}-\\U{stop - 1:08x}" for start, stop, kind in _runs() if kind.startswith(name)]
    if not ranges:
        raise UnknownPiece
    return "".join(ranges)


@functools.cache
def _runs() -> list[tuple[int, int, str]]:
    """Characters in a row of one category: first, one past the last, category."""
    runs, start = [], 0
    for kind, run in itertools.groupby(map(unicodedata.category, map(chr, range(sys.maxunicode + 1)))):
        stop = start + sum(1 for _ in run)
        runs.append((start, stop, kind))
        start = stop
    return runs
