"""Tool schemas as templates can print them: any JSON schema of arguments → the forms Gemma was trained on.

The official templates print of a property its description, one type, `enum` of texts, `nullable`, and what is
inside objects and arrays; of the elements of an array they print every keyword. Everything else vanishes or
looks like a property. So references are followed, nullable unions become `nullable`, other unions their
richest member with a sentence about the others, and choices that cannot be printed a sentence. What the
templates know stays as it is. Grammars and readers of calls go by the schema as it was given.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from gemma4_gguf.errors import SchemaError, ToolError
from gemma4_gguf.grammars.schema_references import References
from gemma4_gguf.grammars.tool_dicts import openai_tools
from gemma4_gguf.templates.schema_forms import (
    ANY,
    Form,
    as_json,
    common_type,
    described,
    either,
    in_words,
    listed_values,
    text_of,
    type_of,
    without,
)

_MANY = 1_000  # schemas; from then on, a definition that was shown once is only named
_TOO_MANY = 10_000  # from then on, only types are shown

_ANNOTATIONS = {"description", "title", "default", "examples", "example", "nullable", "deprecated"}
_REPLACED = {"$ref", "$defs", "definitions", "$schema", "$id", "$anchor", "$comment", "prefixItems"}
_REPLACED |= {"allOf", "anyOf", "oneOf"}
_PRINTED = {"properties", "items", "required", "type", "description", "nullable", "enum"}
# Words by which an untyped schema says what it is for.
_IMPLIED = {
    "object": ("properties", "required", "additionalProperties", "patternProperties", "propertyNames"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
# An entry of an object schema that is no keyword is a property that somebody wrote without `properties`; the
# templates print it as one.
_KEYWORDS = {word for words in _IMPLIED.values() for word in words} | _ANNOTATIONS | _REPLACED | _PRINTED
_KEYWORDS |= {"not", "if", "then", "else", "contains", "const", "discriminator", "xml", "dependencies"}
_KEYWORDS |= {"dependentSchemas", "dependentRequired", "additionalItems", "unevaluatedProperties"}
_KEYWORDS |= {"unevaluatedItems", "minProperties", "maxProperties"}

# What keywords hold, and what the lists among them hold.
_SCHEMAS = (list, (dict, bool))
_HOLDS: dict[str, tuple[Any, Any]] = {
    **dict.fromkeys(("properties", "patternProperties"), (dict, object)),
    **dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems"), _SCHEMAS),
    **dict.fromkeys(("additionalProperties", "additionalItems"), ((dict, bool), object)),
    "items": ((list, dict, bool), (dict, bool)),
    "type": ((str, list), str),
    "required": ((list, bool), str),
    "enum": (list, object),
    "nullable": (bool, object),
    "description": (str, object),
    "$ref": (str, object),
}


def printable_tools(tools: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tool dicts for a template.

    Args:
        tools: dicts in the shape of OpenAI, Anthropic, MCP, Ollama or Gemini.

    Returns:
        OpenAI dicts with schemas that every Gemma 4 template can print.

    Raises:
        ToolError: one is of no known shape, its schema refers to what is not there, or takes no object.
    """
    return [printable_tool(tool) for tool in openai_tools(tools)]


def printable_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """As `printable_tools`, for one in OpenAI's form."""
    function = dict(tool["function"])
    schema = function.get("parameters")
    if schema:
        if not {"type", "enum", "const"} & set(schema) and _implied(schema) is None:
            schema = {"type": "object", **schema}  # arguments are an object, said or not
        try:
            form = _Printer(schema).form(schema, ())
        except RecursionError as error:
            raise ToolError(f"The schema of {function['name']} is nested too deeply to be shown.") from error
        except (SchemaError, ToolError) as error:
            raise ToolError(f"The schema of {function['name']} cannot be shown: {error}.") from error
        if form["type"] != "object":
            raise ToolError(
                f"The arguments of {function['name']} are declared as {form['type']}; expected an object, "
                "whose properties are the arguments."
            )
        # The description of the arguments as a whole is not printed; what was added to it is.
        own = text_of(schema.get("description"))
        said = form.get("description", "").removeprefix(own).lstrip(" .")
        function["description"] = described(text_of(function.get("description")), said)
        function["parameters"] = form
    return {**tool, "function": function}


class _Printer:
    """Writes the forms of one schema document.

    Args:
        root: the document, in which references are looked up.
    """

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.references = References(root)
        self.count = 0
        self.shown: set[str] = set()

    def form(self, schema: Any, inside: tuple[str, ...], *, element: bool = False) -> Form:
        """What a template prints of a schema.

        Args:
            schema: of any shape.
            inside: the references that led here.
            element: it is that of the elements of an array, of which every keyword is printed.

        Returns:
            A schema without references and combinations, with one type, except that elements may have a list
            of them.
        """
        self.count += 1
        if self.count > _TOO_MANY and isinstance(schema, Mapping):
            return _outline(schema)
        if isinstance(schema, bool):
            return _anything({}) if schema else {"type": "null"}
        if not isinstance(schema, Mapping):
            raise ToolError(f"{json.dumps(schema)[:80]} is no schema; expected a dict")
        schema, inside = self._flat(schema, inside)
        for word in ("anyOf", "oneOf"):
            branches = schema.get(word)
            if isinstance(branches, list) and branches:
                return self._union(schema, word, branches, inside, element)
        kind, values = schema.get("type"), listed_values(schema)
        if isinstance(kind, list):
            return self._union(schema, "type", _by_type(kind, values), inside, element)
        if kind is None and values is not None:
            kinds = list(dict.fromkeys(map(type_of, values)))
            if len(kinds) > 1 and "null" in kinds:
                return self.form({**schema, "type": kinds}, inside, element=element)
            kind = common_type(kinds)
        kind = kind or _implied(schema)
        if not isinstance(kind, str):
            return _anything(schema)
        return self._plain(schema, kind, values, inside, element)

    def _plain(
        self,
        schema: Mapping[str, Any],
        kind: str,
        values: list[Any] | None,
        inside: tuple[str, ...],
        element: bool,
    ) -> Form:
        """A schema of one type."""
        out = {key: value for key, value in schema.items() if key not in _REPLACED | _PRINTED}
        out["type"] = kind
        said: list[str] = []
        if schema.get("nullable") is True:
            out["nullable"] = True
        if values is not None and (not element or "const" not in schema):
            out.pop("const", None)
            out["enum"] = values
            names = _names(schema, values)
            if names or (kind.lower() != "string" and not element):
                choices = [f"{as_json(v)}{f' ({n})' if n else ''}" for v, n in zip_longest(values, names)]
                said.append(f"One of: {', '.join(choices)}.")
        if kind.lower() == "object":
            said += self._object(out, schema, inside)
        elif kind.lower() == "array":
            said += self._array(out, schema, inside)
        description = described(text_of(schema.get("description")), *said)
        if description or isinstance(schema.get("description"), str):
            out["description"] = description
        return out

    def _object(self, out: Form, schema: Mapping[str, Any], inside: tuple[str, ...]) -> list[str]:
        """Adds what an object holds; returns sentences about the rest."""
        properties = schema.get("properties")
        loose = {k: v for k, v in schema.items() if k not in _KEYWORDS and isinstance(v, Mapping)}
        if not isinstance(properties, Mapping):
            properties = loose
        for word in ("additionalProperties", "patternProperties", "propertyNames", *loose):
            out.pop(word, None)
        out["properties"] = {
            name: self.form(part, inside) for name, part in properties.items() if part is not False
        }
        required = schema.get("required")
        if isinstance(required, list):
            out["required"] = [name for name in required if isinstance(name, str)]
        others = [schema.get("additionalProperties")]
        if isinstance(schema.get("patternProperties"), Mapping):
            others += schema["patternProperties"].values()
        others = [other for other in others if isinstance(other, Mapping) and other]
        if properties or not others:
            return []
        words = dict.fromkeys(in_words(self.form(other, inside)) for other in others)
        return [f"Any keys, with values: {' or '.join(words)}."]

    def _array(self, out: Form, schema: Mapping[str, Any], inside: tuple[str, ...]) -> list[str]:
        """Adds what an array holds; returns sentences about its order."""
        items, first = schema.get("items"), schema.get("prefixItems")
        if isinstance(items, list):  # until draft 2019
            items, first = schema.get("additionalItems"), items
        if not isinstance(first, list) or not first:
            if isinstance(items, Mapping):
                out["items"] = self.form(items, inside, element=True) if items else {}
            return []
        out.pop("additionalItems", None)
        forms = [self.form(part, inside, element=True) for part in first]
        said = f"In this order: {', '.join(map(in_words, forms))}."
        if isinstance(items, Mapping):
            forms.append(self.form(items, inside, element=True))
            said = f"{said[:-1]}, then any number of: {in_words(forms[-1])}."
        out["items"] = either(forms, element=True)
        return [said]

    def _union(
        self,
        schema: Mapping[str, Any],
        word: str,
        branches: Sequence[Any],
        inside: tuple[str, ...],
        element: bool,
    ) -> Form:
        """A schema that is one of several, each of them together with what stands beside them."""
        notes = {key: value for key, value in schema.items() if key in _ANNOTATIONS}
        base = {key: value for key, value in schema.items() if key != word and key not in _ANNOTATIONS}
        forms = []
        for branch in branches:
            if branch is not False:
                both = {"allOf": [branch, base]} if base else branch
                forms.append(self.form(both, inside, element=element))
        form: Form = either(forms, element) if forms else {"type": "null"}
        nullable = form.get("nullable") or notes.pop("nullable", False) is True
        description = described(text_of(notes.pop("description", None)), form.pop("description", ""))
        form = {**form, **notes}
        if nullable:
            form["nullable"] = True
        if description:
            form["description"] = description
        return form

    def _flat(self, schema: Mapping[str, Any], inside: tuple[str, ...]) -> tuple[Form, tuple[str, ...]]:
        """A schema without $ref and allOf at its top, and the references that led to it."""
        flat = _checked(schema)
        while True:
            if "$ref" in flat:
                flat, inside = self._followed(flat, inside)
            elif isinstance(flat.get("allOf"), list):
                for part in flat.pop("allOf"):
                    if isinstance(part, Mapping):
                        inner, inside = self._flat(part, inside)
                        flat = _both(flat, inner)
            else:
                return flat, inside

    def _followed(self, schema: Form, inside: tuple[str, ...]) -> tuple[Form, tuple[str, ...]]:
        """A schema with what its $ref leads to; where that leads back to itself, with a word about it."""
        ref, rest = schema["$ref"], without(schema, "$ref")
        try:
            target = self.references.resolve(ref, "").schema
        except SchemaError:
            if ref.startswith("#"):
                raise
            return _both(rest, {"description": f"As {ref} describes it."}), inside
        if not isinstance(target, Mapping):
            return _both(rest, {"type": "null"} if target is False else {}), inside
        if ref not in inside and (self.count <= _MANY or ref not in self.shown):
            self.shown.add(ref)
            return _both(rest, _checked(without(target, "title"))), (*inside, ref)
        properties = target.get("properties")
        words = f" ({', '.join(properties)})" if isinstance(properties, Mapping) and properties else ""
        again = f"Again {ref.rpartition('/')[2] if ref != '#' else 'the arguments'}{words}."
        kind = target.get("type") or _implied(target) or "object"
        return {
            "type": kind,
            **rest,
            "description": described(text_of(rest.get("description")), again),
        }, inside


def _checked(schema: Mapping[str, Any]) -> Form:
    """A copy of a schema whose keywords hold what they may."""
    out = {}
    for word, value in schema.items():
        allowed, inner = _HOLDS.get(word, (object, object))
        listed = value if isinstance(value, list) else []
        if (
            not isinstance(value, allowed)
            or (word, value) == ("type", "")
            or not all(isinstance(one, inner) for one in listed)
        ):
            raise ToolError(f"{word} is {json.dumps(value)[:80]}, which JSON Schema does not know there")
        out[word] = value
    return out


def _both(schema: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two schemas that hold at once, as one; what the first says of itself goes before."""
    out = {**other, **schema}
    for word in ("properties", "patternProperties"):
        a, b = schema.get(word), other.get(word)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            out[word] = {**b, **a}
            for name in a.keys() & b.keys():
                if a[name] != b[name]:
                    out[word][name] = {"allOf": [a[name], b[name]]}
    a, b = schema.get("required"), other.get("required")
    if isinstance(a, list) and isinstance(b, list):
        out["required"] = list(dict.fromkeys([*b, *a]))
    a, b = schema.get("type"), other.get("type")
    if a is not None and b is not None and a != b:
        first, second = ([kind] if isinstance(kind, str) else kind for kind in (a, b))
        shared = [kind for kind in first if kind in second]
        shared = shared or [kind for kind in ("integer",) if kind in (*first, *second)] or first
        out["type"] = shared[0] if len(shared) == 1 else shared
    a, b = listed_values(schema), listed_values(other)
    if a is not None and b is not None:
        out.pop("const", None)
        shared_values = set(map(as_json, b))
        out["enum"] = [value for value in a if as_json(value) in shared_values] or a
    if "nullable" in out and not (schema.get("nullable", True) and other.get("nullable", True)):
        del out["nullable"]
    for word in ("anyOf", "oneOf"):
        if word in schema and word in other and schema[word] != other[word]:
            # One of these together with one of those.
            out[word] = [{"allOf": [branch, {word: other[word]}]} for branch in schema[word]]
    if "allOf" in schema and "allOf" in other:
        out["allOf"] = [*schema["allOf"], *other["allOf"]]
    return out


def _names(schema: Mapping[str, Any], values: list[Any]) -> list[str]:
    """What a form or an editor would call the choices; [] if it is not said of each."""
    listed = schema.get("enumNames", schema.get("enumDescriptions"))
    said = isinstance(listed, list) and len(listed) == len(values) and all(isinstance(n, str) for n in listed)
    return listed if said else []


def _outline(schema: Mapping[str, Any]) -> Form:
    kind = schema.get("type")
    kind = kind if isinstance(kind, str) else _implied(schema) or "string"
    return {"type": kind, **({"properties": {}} if kind == "object" else {})}


def _anything(schema: Mapping[str, Any]) -> Form:
    out = {key: value for key, value in schema.items() if key not in _REPLACED and key != "type"}
    return {**out, "type": "string", "description": described(text_of(schema.get("description")), ANY)}


def _by_type(kinds: list[Any], values: list[Any] | None) -> list[dict[str, Any]]:
    """Alternatives for a list of types, each with the listed values of its type."""
    if values is None:
        return [{"type": kind} for kind in kinds]
    listed = {kind: [value for value in values if type_of(value) == kind] for kind in kinds}
    if "number" in listed:
        listed["number"] += [value for value in values if type_of(value) == "integer"]
    return [{"type": kind, "enum": found} for kind, found in listed.items() if found]


def _implied(schema: Mapping[str, Any]) -> str | None:
    """The type that an untyped schema speaks of."""
    return next((kind for kind, words in _IMPLIED.items() if any(word in schema for word in words)), None)
