"""References: where a $ref leads inside one schema document.

A reference is a JSON pointer after # (RFC 6901, percent-encoded as a URI asks), the name of an $anchor, or
the $id of a schema inside the document. Nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urljoin

from gemma4_gguf.errors import SchemaError
from gemma4_gguf.grammars.schema_keywords import escape
from gemma4_gguf.grammars.schema_shapes import Subschema

# What stands under these words are values, not schemas.
_VALUES = frozenset({"enum", "const", "default", "examples", "example"})


class References:
    """The places of one document that references can name.

    Args:
        root: the document.
    """

    def __init__(self, root: Any) -> None:
        self.root = root
        self._index: tuple[dict[str, str], dict[str, str], dict[str, list[str]]] | None = None

    def resolve(self, ref: Any, pointer: str) -> Subschema:
        """Look a reference up.

        Args:
            ref: what stands under $ref.
            pointer: where the reference stands.

        Raises:
            SchemaError: it leads outside the document or to nothing.
        """
        if not isinstance(ref, str):
            raise SchemaError(f"a reference is text, not a {type(ref).__name__}", pointer=pointer)
        bases, targets, _ = self._places()
        resource, _, fragment = ref.partition("#")
        start = self._resource(pointer)
        if resource:
            found = targets.get(urljoin(bases.get(start, ""), resource))
            if found is None:
                raise SchemaError(
                    f"only references inside the schema are followed; found {ref!r}", pointer=pointer
                )
            start = found
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            found = targets.get(f"{bases.get(start, '')}#{fragment}")
            if found is None:
                raise SchemaError(f"{ref} leads to nothing", pointer=pointer)
            return Subschema(_step_down(self.root, found), found)
        try:
            return Subschema(_step_down(self.root, start + fragment), start + fragment)
        except (KeyError, IndexError, TypeError):
            raise SchemaError(f"{ref} leads to nothing", pointer=pointer) from None

    def resolve_dynamic(self, ref: Any, pointer: str) -> Subschema:
        """Look a $dynamicRef or a $recursiveRef up, where it can lead to one place only.

        Raises:
            SchemaError: as `resolve`; or its anchor is at several places, between which use decides.
        """
        bases, _, dynamic = self._places()
        several = len(bases) > 1 if ref == "#" else len(dynamic.get(str(ref).rpartition("#")[2], ())) > 1
        if several:
            word = pointer.rpartition("/")[2]
            raise SchemaError(f"{word} cannot be expressed as a grammar where use decides", pointer=pointer)
        return self.resolve(ref, pointer)

    def _resource(self, pointer: str) -> str:
        """The pointer of the innermost schema with an $id around a place."""
        bases = self._places()[0]
        if len(bases) == 1:
            return ""
        while pointer not in bases:
            pointer = pointer.rpartition("/")[0]
        return pointer

    def _places(self) -> tuple[dict[str, str], dict[str, str], dict[str, list[str]]]:
        """Pointers of schemas with an $id → URI; URIs, an anchor after some → pointer; dynamic anchors."""
        if self._index is None:
            bases: dict[str, str] = {"": ""}
            targets: dict[str, str] = {}
            dynamic: dict[str, list[str]] = {}
            old = isinstance(self.root, Mapping) and "draft-0" in str(self.root.get("$schema", ""))
            queue = [(self.root, "", "")]
            while queue:
                schema, pointer, base = queue.pop()
                if isinstance(schema, list):
                    queue += [(item, f"{pointer}/{i}", base) for i, item in enumerate(schema)]
                if not isinstance(schema, Mapping):
                    continue
                identity = schema.get("$id", schema.get("id"))
                if isinstance(identity, str) and not (old and "$ref" in schema):
                    base = _identify(identity, base, pointer, bases, targets)
                for word in ("$anchor", "$dynamicAnchor"):
                    if isinstance(name := schema.get(word), str):
                        targets[f"{base}#{name}"] = pointer
                        if word == "$dynamicAnchor":
                            dynamic.setdefault(name, []).append(pointer)
                queue += [
                    (inner, f"{pointer}/{escape(str(word))}", base)
                    for word, inner in schema.items()
                    if word not in _VALUES and isinstance(inner, (Mapping, list))
                ]
            self._index = bases, targets, dynamic
        return self._index


def _identify(identity: str, base: str, pointer: str, bases: dict[str, str], targets: dict[str, str]) -> str:
    """Note an $id; gives the base of what stands inside. Before draft 2019-09 "#name" was an anchor."""
    if identity.startswith("#"):
        targets[f"{base}{identity}"] = pointer
        return base
    base = urljoin(base, identity).rstrip("#")
    bases[pointer] = base
    targets[base] = pointer
    return base


def _step_down(root: Any, pointer: str) -> Any:
    """What a JSON pointer names."""
    found = root
    for step in pointer.split("/")[1:]:
        key: Any = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and key.isdecimal():
            key = int(key)
        found = found[key]
    return found
