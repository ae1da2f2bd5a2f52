"""NVIDIA's reference integrity manifests (RIM): which measurements a driver, or a VBIOS, may have.

Source: "TCG Reference Integrity Manifest Information Model" 1.01; the file is an ISO/IEC 19770-2:2015 SWID tag, signed.
Entry i is of measurement block i + 1, has one or more values (alternatives), and counts only while it is active.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from attest.errors import MalformedInput
from attest.nvgpu.xmltree import Element

WHAT = "reference manifest"
SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
HASH_SHA384 = "http://www.w3.org/2001/04/xmlenc#sha384"
MAX_ENTRIES = 256
MAX_ALTERNATIVES = 64
DIGEST_BYTES = 48
DIGEST = re.compile(r"[0-9a-f]{96}")
NUMBER = re.compile(r"0|[1-9][0-9]{0,3}")
ACTIVE = {"True": True, "False": False}


@dataclass(frozen=True)
class Rim:
    """A reference manifest."""

    tag_id: str
    """Its identity."""
    version: str
    """The driver's or VBIOS's version that it is of: `545.00`, `96.00.5E.00.01`."""
    product: str
    """The chip that it is of: `GH100`."""
    values: dict[int, tuple[bytes, ...]]
    """The values allowed of each active measurement block, by the block's index (from 1)."""


def read(root: Element) -> Rim:
    """The manifest of a SWID tag's root element. Raises `MalformedInput`."""
    if root.name != (SWID, "SoftwareIdentity"):
        raise MalformedInput(WHAT, f"expected a SWID tag, found {root.name[1][:80]}")
    meta, payload = _one(root, "Meta"), _one(root, "Payload")
    entries = payload.elements()
    if not 1 <= len(entries) <= MAX_ENTRIES:
        raise MalformedInput(WHAT, f"expected 1 to {MAX_ENTRIES} entries, found {len(entries)}")
    values: dict[int, tuple[bytes, ...]] = {}
    seen: set[int] = set()
    for entry in entries:
        index, active, alternatives = _entry(entry)
        if index in seen:
            raise MalformedInput(WHAT, f"entry {index}: expected once, found twice")
        seen.add(index)
        if active:
            values[index + 1] = alternatives
    return Rim(_text(root, "tagId"), _text(meta, "colloquialVersion"), _text(meta, "product"), values)


def _one(root: Element, local: str) -> Element:
    found = [child for child in root.elements() if child.name == (SWID, local)]
    if len(found) != 1:
        raise MalformedInput(WHAT, f"expected one {local}, found {len(found)}")
    return found[0]


def _entry(entry: Element) -> tuple[int, bool, tuple[bytes, ...]]:
    """Index, whether it counts, and its values."""
    if entry.name != (SWID, "Resource") or entry.get("type") != "Measurement":
        raise MalformedInput(WHAT, f"expected a measurement, found {entry.name[1][:80]}")
    index, count = _number(entry, "index"), _number(entry, "alternatives")
    active = ACTIVE.get(_text(entry, "active"))
    if active is None or _number(entry, "size") != DIGEST_BYTES:
        raise MalformedInput(WHAT, f"entry {index}: expected active or not, and {DIGEST_BYTES} bytes")
    hashes = {local: value for (namespace, local), (_, value) in entry.attributes.items() if namespace == HASH_SHA384}
    wanted = [f"Hash{number}" for number in range(count)]
    if not 1 <= count <= MAX_ALTERNATIVES or hashes.keys() != set(wanted):
        raise MalformedInput(WHAT, f"entry {index}: expected {count} values, found {len(hashes)}")
    if not all(DIGEST.fullmatch(value) for value in hashes.values()):
        raise MalformedInput(WHAT, f"entry {index}: expected 96 lower-case hexadecimal digits each")
    return index, active, tuple(bytes.fromhex(hashes[name]) for name in wanted)


def _number(element: Element, attribute: str) -> int:
    value = _text(element, attribute)
    if not NUMBER.fullmatch(value):
        raise MalformedInput(WHAT, f"{attribute}: expected a number, found {value[:40]!r}")
    return int(value)


def _text(element: Element, attribute: str) -> str:
    value = element.get(attribute)
    if not value or len(value) > 256 or not value.isprintable():
        raise MalformedInput(WHAT, f"{element.name[1]}: expected {attribute}, 1 to 256 printable characters")
    return value
