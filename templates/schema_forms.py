"""Forms of schemas: how templates print several at once, and in words.

A form is a schema without references and combinations, with one type. Where a value may have several forms,
one form is printed, and a sentence says the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Form = dict[str, Any]

ANY = "Any JSON value."
CHOICES = "One of: "
_SENTENCE_ENDS = (".", "!", "?", ":", "…", "。")


def either(forms: Sequence[Form], element: bool) -> Form:
    """One form for several, of which one holds.

    Args:
        forms: at least one.
        element: they are those of the elements of an array, which may have a list of types.

    Returns:
        What they have in common, and a sentence about how they differ.
    """
    nullable = any(form.get("nullable") or form["type"] == "null" for form in forms)
    rest = [without(form, "nullable") for form in forms if form["type"] != "null"]
    rest = list({as_json(form): form for form in rest}.values())
    if not rest:
        return dict(forms[0])
    out = dict(rest[0]) if len(rest) == 1 else _merged(rest, element)
    if nullable:
        out["nullable"] = True
    return out


def _merged(forms: list[Form], element: bool) -> Form:
    """One form for several that differ and are not null."""
    kinds = list(dict.fromkeys(kind for form in forms for kind in _listed(form["type"])))
    sentence = f"{_capital(_joined(map(in_words, forms)))}."
    if all(listed_values(form) is not None for form in forms):
        return _merged_choices(forms, common_type(kinds), element)
    if kinds == ["object"]:
        return _merged_objects(forms, sentence)
    if kinds == ["array"]:
        inner = [form["items"] for form in forms if form.get("items")]
        items = {"items": either(inner, element=True)} if len(inner) == len(forms) else {}
        return {"type": "array", **items, "description": sentence}
    if all(set(form) == {"type"} for form in forms):
        if set(kinds) == {"integer", "number"}:
            return {"type": "number"}
        if element:
            return {"type": kinds}
    richest = max(forms, key=lambda form: ("properties" in form, "items" in form))
    kept = {key: value for key, value in richest.items() if key in ("properties", "required", "items")}
    return {"type": richest["type"], **kept, "description": sentence}


def _merged_choices(forms: list[Form], kind: str, element: bool) -> Form:
    values = list({as_json(value): value for form in forms for value in listed_values(form) or ()}.values())
    out: Form = {"type": kind, "enum": values}
    if any(form.get("title") or _own_words(form) for form in forms):
        out["description"] = f"One of: {', '.join(map(in_words, forms))}."
    elif kind != "string" and not element:
        out["description"] = f"One of: {', '.join(map(as_json, values))}."
    return out


def _merged_objects(forms: list[Form], sentence: str) -> Form:
    properties: dict[str, Form] = {}
    for name in dict.fromkeys(name for form in forms for name in form["properties"]):
        found = [form["properties"][name] for form in forms if name in form["properties"]]
        properties[name] = either(found, element=False)
    out: Form = {"type": "object", "properties": properties}
    required = [name for name in properties if all(name in form.get("required", ()) for form in forms)]
    if required:
        out["required"] = required
    return {**out, "description": sentence} if len(set(map(in_words, forms))) > 1 else out


def in_words(form: Form) -> str:
    """A form in a few words: integer, array of string, "a" or "b", object {path, mode?}.

    Args:
        form: of one schema.

    Returns:
        The words, without a full stop.
    """
    said = text_of(form.get("description"))
    if (values := listed_values(form)) is not None:
        words, said = _joined(map(as_json, values)), text_of(form.get("title")) or _own_words(form)
    elif form["type"] == "array":
        words = f"array of {in_words(form['items'])}" if form.get("items") else "array"
    elif form["type"] == "object" and form["properties"]:
        words = f"object {{{', '.join(_members(form))}}}"
    elif said == ANY:
        words, said = ANY[0].lower() + ANY[1:-1], ""
    else:
        words = _joined(_listed(form["type"]))
    words = f"{words} ({said.rstrip('.')})" if said else words
    return f"{words} or null" if form.get("nullable") else words


def _own_words(form: Form) -> str:
    """The description of a form with choices, unless it only repeats them."""
    said = text_of(form.get("description"))
    return "" if said.startswith(CHOICES) else said


def _members(form: Form) -> Iterable[str]:
    for name, part in form["properties"].items():
        values = listed_values(part) or ()
        value = f": {as_json(values[0])}" if len(values) == 1 else ""
        yield f"{name}{'' if name in form.get('required', ()) else '?'}{value}"


def listed_values(schema: Mapping[str, Any]) -> list[Any] | None:
    """The values that a schema lists.

    Args:
        schema: with `enum` or `const`.

    Returns:
        None if it lists none.
    """
    if "const" in schema:
        return [schema["const"]]
    return schema["enum"] if isinstance(schema.get("enum"), list) and schema["enum"] else None


def common_type(kinds: Sequence[str]) -> str:
    """One type for choices of several.

    Args:
        kinds: at least one JSON type.

    Returns:
        "string" where there are texts: only their choices are printed.
    """
    return kinds[0] if len(kinds) == 1 else "string" if "string" in kinds else "number"


def type_of(value: Any) -> str:
    """The JSON type of a value.

    Args:
        value: plain JSON.

    Returns:
        Such as "integer".
    """
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "null")


def described(*texts: str) -> str:
    """Sentences one after the other.

    Args:
        texts: empty ones are left out.

    Returns:
        One text, a full stop between those that lack one.
    """
    out = ""
    for text in filter(None, texts):
        if out and not out.rstrip().endswith(_SENTENCE_ENDS):
            out = f"{out.rstrip()}."
        out = f"{out} {text}" if out else text
    return out


def text_of(value: Any) -> str:
    """A text, or none.

    Args:
        value: of a keyword that holds a text.

    Returns:
        "" for what is no text.
    """
    return value if isinstance(value, str) else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _joined(words: Iterable[str]) -> str:
    *most, last = dict.fromkeys(words)
    return f"{', '.join(most)} or {last}" if most else last


def as_json(value: Any) -> str:
    """A value as JSON.

    Args:
        value: plain JSON.

    Returns:
        In one line, characters as they are.
    """
    return json.dumps(value, ensure_ascii=False)


def _listed(kind: str | list[str]) -> list[str]:
    return [kind] if isinstance(kind, str) else kind


def without(schema: Mapping[str, Any], *words: str) -> dict[str, Any]:
    """A copy that lacks some keywords.

    Args:
        schema: it.
        words: that it need not have.

    Returns:
        The copy.
    """
    return {key: value for key, value in schema.items() if key not in words}
