"""Products, and the versions of the code that each of them has to be trusted with (`TCB_VERSION`)."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from attest.canonical import Model
from attest.errors import Unsupported

Product = Literal["Milan", "Genoa", "Turin"]
"""A line of processors with a root key of its own. Bergamo and Siena are Genoa to AMD's key service."""
PRODUCTS: Final[dict[str, Product]] = {"Milan": "Milan", "Genoa": "Genoa", "Turin": "Turin"}

Spl = Annotated[int, Field(ge=0, le=255)]
"""A security patch level."""

# SEV-SNP ABI, 2.2 "TCB version": which component stands at which byte; the others are reserved.
_BYTES: Final[dict[Product, dict[str, int]]] = {
    "Milan": {"boot_loader": 0, "tee": 1, "snp": 6, "microcode": 7},
    "Genoa": {"boot_loader": 0, "tee": 1, "snp": 6, "microcode": 7},
    "Turin": {"fmc": 0, "boot_loader": 1, "tee": 2, "snp": 3, "microcode": 7},
}
# (family, first model, last model) of CPUID function 1, families and models with their extensions added.
_MODELS: Final[dict[Product, tuple[tuple[int, int, int], ...]]] = {
    "Milan": ((0x19, 0x00, 0x0F),),
    "Genoa": ((0x19, 0x10, 0x1F), (0x19, 0xA0, 0xAF)),
    "Turin": ((0x1A, 0x00, 0x1F),),
}


class Tcb(Model):
    """A `TCB_VERSION` (8 bytes): the security patch level of each component."""

    fmc: Spl = 0
    """Firmware management controller; Turin only, 0 elsewhere."""
    boot_loader: Spl
    """Boot loader of the secure processor."""
    tee: Spl
    """Operating system of the secure processor."""
    snp: Spl
    """SNP firmware."""
    microcode: Spl
    """Lowest microcode patch level of all cores."""

    def at_least(self, minimum: Tcb) -> bool:
        """Whether no component is below that of `minimum`."""
        return all(getattr(self, name) >= getattr(minimum, name) for name in type(self).model_fields)

    def __str__(self) -> str:
        return ", ".join(f"{name} {level}" for name, level in self)


def read(raw: bytes, product: Product) -> Tcb:
    """The 8 bytes `raw` as they are laid out on `product`. Raises `Unsupported` for a component not known here."""
    places = _BYTES[product]
    if any(level for place, level in enumerate(raw) if place not in places.values()):
        raise Unsupported("SEV-SNP report", f"expected zeros in reserved bytes of {product}'s TCB, found {raw.hex()}")
    return Tcb(**{name: raw[place] for name, place in places.items()})


def product_of(family: int, model: int) -> Product:
    """The product with this CPUID family and model. Raises `Unsupported`."""
    for product, ranges in _MODELS.items():
        if any(family == known and first <= model <= last for known, first, last in ranges):
            return product
    raise Unsupported("SEV-SNP report", f"no known product has family {family:#x} and model {model:#x}")
