"""Compiled patterns: what the flags of Python's `re` mean, written out in the notation that grammars read.

Python's expressions and those of JSON Schema share their syntax where they are regular; flags are Python's
own. Classes are those of JSON Schema, of ASCII characters: \\d is [0-9].
"""

from __future__ import annotations

import re

from gemma4_gguf.errors import SchemaError

_TOKEN = re.compile(
    r"""(?P<global>\A\(\?[aiLmsux]+\))
    |(?P<group>\(\?(?:P?<[A-Za-z_]\w*>|:|=|!|<=|<!))
    |(?P<code>\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4})
    |(?P<escape>\\[\s\S])
    |(?P<set>\[\^?\]?(?:\\[\s\S]|[^\]\\])*\])
    |(?P<count>\{[0-9,]*\})
    |(?P<plain>[\s\S])""",
    re.VERBOSE,
)
_ESCAPES = {r"\A": "", r"\Z": "", r"\z": ""}  # the whole reply must match anyway
_LONGEST_RANGE = 4096  # characters
_ASCII_SPACE = r" \t\n\r\f\v"
_MEMBER = re.compile(r"\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\[\s\S]|[\s\S]")


def expression_of(pattern: re.Pattern[str]) -> str:
    """The expression of a compiled pattern, its flags written out.

    Args:
        pattern: compiled from text.

    Returns:
        An expression that needs no flags.

    Raises:
        SchemaError: it was compiled from bytes, or a flag changes something that cannot be written out.
    """
    if not isinstance(pattern.pattern, str):
        raise SchemaError("a pattern of bytes describes no text; compile it from a str")
    out, in_comment = [], False
    for token in _TOKEN.finditer(pattern.pattern):
        kind, text = token.lastgroup, token.group()
        if pattern.flags & re.VERBOSE:
            in_comment = (in_comment and text != "\n") or text == "#"
            if in_comment or (kind == "plain" and text.isspace()):
                continue
        inner = token.start() > 0 and token.end() < len(pattern.pattern)
        if text in ("^", "$") and kind == "plain" and inner and pattern.flags & re.MULTILINE:
            raise SchemaError(f"re.MULTILINE lets {text} stand at every line; write the line breaks out")
        if kind != "global":
            out.append(_written(str(kind), text, pattern.flags))
    return "".join(out)


def _written(kind: str, text: str, flags: int) -> str:
    """One token without flags."""
    if kind == "set":
        return _set(text, flags)
    if kind == "code" or (kind == "plain" and text.isalpha()):
        return _cases(text, flags)
    if kind == "escape":
        if text in (r"\s", r"\S") and flags & re.ASCII:
            return "[" + "^" * (text == r"\S") + _ASCII_SPACE + "]"
        return _ESCAPES.get(text, text)
    if text == "." and kind == "plain" and flags & re.DOTALL:
        return r"[\s\S]"
    if kind == "count" and text.startswith("{,") and len(text) > 2:
        return "*" if text == "{,}" else "{0" + text[1:]
    return text


def _set(text: str, flags: int) -> str:
    """A set such as [a-z_], in both cases where these do not count."""
    negated = text.startswith("[^")
    members = _MEMBER.findall(text[2 if negated else 1 : -1])
    if flags & re.ASCII and r"\S" in members:
        raise SchemaError(r"\S inside a set cannot be kept to ASCII; list the characters")
    if members and members[0] == "]":
        members[0] = r"\]"
    others = _other_cases(members) if flags & re.IGNORECASE else []
    if others and members[0] == "-":
        members[0] = r"\-"
    body = "".join(_ASCII_SPACE if m == r"\s" and flags & re.ASCII else m for m in members)
    return f"[{'^' if negated else ''}{''.join(others)}{body}]"


def _other_cases(members: list[str]) -> list[str]:
    """What the members of a set are in the other case; a hyphen at an end of the set is one of them."""
    out, at = [], 0
    while at < len(members):
        is_range = at + 2 < len(members) and members[at + 1] == "-"
        ends = [_char(member) for member in (members[at], members[at + 2] if is_range else members[at])]
        at += 3 if is_range else 1
        if None in ends:
            continue
        low, high = (ord(end or "") for end in ends)
        if high - low > _LONGEST_RANGE:
            raise SchemaError("re.IGNORECASE over a long range of characters; list the letters of both cases")
        found = {case for code in range(low, high + 1) for case in _both(chr(code))}
        out += [re.escape(case) for case in sorted(found) if not low <= ord(case) <= high]
    return out


def _cases(text: str, flags: int) -> str:
    char = _char(text)
    both = sorted(_both(char)) if char and flags & re.IGNORECASE else []
    return f"[{''.join(both)}]" if len(both) > 1 else text


def _char(member: str) -> str | None:
    """The character that a member of a set, or an escape of its code, stands for."""
    if member[:2] in (r"\x", r"\u") and len(member) > 2:
        return chr(int(member[2:], 16))
    return member if len(member) == 1 else None


def _both(char: str) -> set[str]:
    return {case for case in (char, char.lower(), char.upper()) if len(case) == 1}
