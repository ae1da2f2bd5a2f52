"""XML in a profile that leaves nothing to interpret, and its canonical form (Canonical XML 1.1, W3C 2008).

`parse` refuses document types (and with them entities and external references), processing instructions, comments,
`xml:` attributes, undeclared prefixes and anything but UTF-8. What is left has one reading, and a canonical form that
is a page of code; `lxml` has no Canonical XML 1.1, and the standard library only version 2. The parser is Expat.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NoReturn

from attest.errors import MalformedInput

MAX_BYTES = 1 << 18
"""Of a document: NVIDIA's manifests have 20 KiB."""
MAX_DEPTH = 16
MAX_NAMESPACES = 32
"""In scope at once."""
XML_PREFIXES = ("xml", "xmlns")
QUALIFIED = re.compile("[^:]+(:[^:]+)?")
TEXT_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#xD;"})
VALUE_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", '"': "&quot;", "\t": "&#x9;", "\n": "&#xA;", "\r": "&#xD;"})


@dataclass(frozen=True)
class Element:
    """An element. Names are pairs of namespace and local name; no namespace is the empty one."""

    qualified: str
    """Its name as written, with its prefix."""
    name: tuple[str, str]
    """Its name."""
    attributes: dict[tuple[str, str], tuple[str, str]]
    """Its attributes by name: as written, and value."""
    scope: dict[str, str]
    """Every namespace in scope, by prefix; the default one by the empty prefix."""
    children: list[Element | str] = field(default_factory=list)
    """Elements and texts, in order."""

    def elements(self) -> list[Element]:
        """The elements among the children."""
        return [child for child in self.children if isinstance(child, Element)]

    def get(self, local: str, namespace: str = "") -> str | None:
        """The value of an attribute, None where it is absent."""
        return self.attributes.get((namespace, local), (None, None))[1]

    def text(self) -> str:
        """The text of an element that has no other children; empty where it has."""
        return "".join(child for child in self.children if isinstance(child, str)) if not self.elements() else ""


def parse(data: bytes, what: str) -> Element:
    """The root element of a document. Raises `MalformedInput`, whose subject is `what`."""
    if len(data) > MAX_BYTES:
        raise MalformedInput(what, f"expected at most {MAX_BYTES} bytes, found {len(data)}")
    from xml.parsers import expat  # not in the sealed image, which verifies no manifests

    builder = _Builder(what)
    parser = expat.ParserCreate("UTF-8")
    parser.buffer_text = True
    parser.ordered_attributes = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.text
    parser.XmlDeclHandler = builder.declaration
    parser.StartDoctypeDeclHandler = builder.refuse_doctype
    parser.ProcessingInstructionHandler = builder.refuse_instruction
    parser.CommentHandler = builder.refuse_comment
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise MalformedInput(what, f"line {error.lineno}: {expat.ErrorString(error.code)}") from None
    return builder.root[0]


class _Builder:
    """Builds elements as the parser reports them."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.root: list[Element] = []
        self.open: list[Element] = []

    def start(self, qualified: str, flat: list[str]) -> None:
        if len(self.open) == MAX_DEPTH:
            self.refuse(f"expected at most {MAX_DEPTH} levels, found more")
        written = dict(zip(flat[::2], flat[1::2], strict=True))
        for name in (qualified, *written):
            if not QUALIFIED.fullmatch(name):
                self.refuse(f"expected a prefix and a local name, found {name[:80]!r}")
        scope = self.scope({name: value for name, value in written.items() if name.partition(":")[0] == "xmlns"})
        attributes: dict[tuple[str, str], tuple[str, str]] = {}
        for name, value in written.items():
            if name.partition(":")[0] == "xmlns":
                continue
            expanded = self.expand(name, scope, default="")
            if expanded in attributes:
                self.refuse(f"expected attribute {name[:80]!r} once, found it twice")
            attributes[expanded] = (name, value)
        element = Element(qualified, self.expand(qualified, scope, default=scope.get("", "")), attributes, scope)
        (self.open[-1].children if self.open else self.root).append(element)
        self.open.append(element)

    def scope(self, declared: dict[str, str]) -> dict[str, str]:
        """The namespaces in scope of an element with these declarations; without any, those of the one above."""
        above = self.open[-1].scope if self.open else {}
        scope = above | {name.partition(":")[2]: value for name, value in declared.items()} if declared else above
        for prefix, namespace in scope.items() if declared else ():
            if prefix in XML_PREFIXES or (prefix and not namespace):
                self.refuse(f"expected no declaration of {prefix[:80]!r} as {namespace[:80]!r}")
        if len(scope) > MAX_NAMESPACES:
            self.refuse(f"expected at most {MAX_NAMESPACES} namespaces, found {len(scope)}")
        return scope

    def expand(self, qualified: str, scope: dict[str, str], default: str) -> tuple[str, str]:
        """Namespace and local name of a name as written."""
        prefix, colon, local = qualified.partition(":")
        if not colon:
            return default, qualified
        if prefix not in scope:
            self.refuse(f"expected a declared prefix, found {qualified[:80]!r}")
        return scope[prefix], local

    def end(self, qualified: str) -> None:  # noqa: ARG002 - the parser has compared it
        self.open.pop()

    def text(self, text: str) -> None:
        self.open[-1].children.append(text)

    def declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        if version != "1.0" or (encoding or "UTF-8").upper() != "UTF-8" or standalone == 0:
            self.refuse(f"expected XML 1.0 in UTF-8, found {version} in {str(encoding)[:40]}")

    def refuse_doctype(self, *_: object) -> None:
        self.refuse("expected no document type")

    def refuse_instruction(self, *_: object) -> None:
        self.refuse("expected no processing instruction")

    def refuse_comment(self, *_: object) -> None:
        self.refuse("expected no comment")

    def refuse(self, problem: str) -> NoReturn:
        raise MalformedInput(self.what, problem)


def canonical(element: Element, without: Element | None = None) -> bytes:
    """The canonical form of `element` and all below it, as of a document subset; `without` one of its children.

    Namespaces in scope are written where they first are (inclusive canonicalisation), also those from above `element`.
    """
    parts: list[str] = []
    _write(element, {}, without, parts)
    return "".join(parts).encode("utf-8")


def _write(element: Element, written: dict[str, str], without: Element | None, parts: list[str]) -> None:
    parts.append(f"<{element.qualified}")
    for prefix, namespace in sorted(element.scope.items()):
        if written.get(prefix, "") != namespace:
            parts.append(f' xmlns{":" if prefix else ""}{prefix}="{namespace.translate(VALUE_ESCAPES)}"')
    for _, (name, value) in sorted(element.attributes.items()):
        parts.append(f' {name}="{value.translate(VALUE_ESCAPES)}"')
    parts.append(">")
    for child in element.children:
        if isinstance(child, str):
            parts.append(child.translate(TEXT_ESCAPES))
        elif child is not without:
            _write(child, element.scope, without, parts)
    parts.append(f"</{element.qualified}>")
