"""A seccomp policy as data: which system calls a sealed worker may make, with which arguments, and why.

The files lie in `policy/seccomp/`, in TOML, for people to review. What is not named is refused with the default error.
This module refuses files that name an unknown call, an unknown error, or one call both as allowed and as refused.
"""

from __future__ import annotations

import errno
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from appliance.seal import syscalls
from attest import canonical
from attest.canonical import Model
from attest.digest import digest_of
from attest.errors import EnvironmentProblem, MalformedInput

SELF = "self"
"""Stands for the process id of the worker, which is known only when it seals itself."""

NAME_PATTERN = r"^[a-z][a-z0-9-]{0,31}$"
WORD_MAX = 2**64 - 1


class Condition(Model):
    """One argument of a call, compared as an unsigned 64-bit word: `argument & mask` is one of `among`."""

    arg: Annotated[int, Field(ge=0, le=5)]
    """The position of the argument, from 0."""
    mask: Annotated[int, Field(ge=1, le=WORD_MAX)] = WORD_MAX
    """The bits that are compared; the others may be anything."""
    among: Annotated[tuple[Annotated[int, Field(ge=0, le=WORD_MAX)] | Literal["self"], ...], Field(min_length=1)]
    """The accepted values; `self` is the worker's own process id."""

    @model_validator(mode="after")
    def _within_mask(self) -> Self:
        for value in self.among:
            if isinstance(value, int) and value & ~self.mask:
                raise ValueError(f"expected values within the mask {self.mask:#x}, found {value:#x}")
        return self


class Allowance(Model):
    """Calls that are let through."""

    why: Annotated[str, Field(min_length=1)]
    """What the worker needs them for."""
    calls: Annotated[tuple[str, ...], Field(min_length=1)]
    """System calls by name; one that an architecture lacks is skipped there."""
    when: tuple[Condition, ...] = ()
    """All must hold. A call named by several allowances passes when one of them lets it."""


class Refusal(Model):
    """Calls that are refused with an error of their own."""

    why: Annotated[str, Field(min_length=1)]
    """Why the default error does not do."""
    calls: Annotated[tuple[str, ...], Field(min_length=1)]
    """System calls by name."""
    error: str
    """The error that the caller sees, `ENOSYS`."""


class SeccompPolicy(Model):
    """A whole policy file."""

    format: Literal["vitrine/seccomp-policy/v1"]
    """The format's name and version."""
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    """The name, equal to the file's."""
    default: str
    """The error for every call that is not named, `EPERM`."""
    allow: Annotated[tuple[Allowance, ...], Field(min_length=1)]
    """What is let through."""
    refuse: tuple[Refusal, ...] = ()
    """What is refused in a particular way."""


def policy_path(name: str) -> Path:
    """Where the policy `name` lies."""
    from appliance import resources

    return resources.policy() / "seccomp" / f"{name}.toml"


def read_policy(name: str) -> bytes:
    """The bytes of the policy file `name`. Raises `EnvironmentProblem` when it cannot be read."""
    path = policy_path(name)
    try:
        return path.read_bytes()
    except OSError as error:
        raise EnvironmentProblem(f"seccomp policy {name}: expected {path}, {error.strerror}: reinstall") from None


def parse_policy(data: bytes, name: str) -> SeccompPolicy:
    """`data` as the policy called `name`. Raises `MalformedInput`."""
    what = f"seccomp policy {name}"
    try:
        value = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise MalformedInput(what, str(error)) from None
    policy = canonical.validate(SeccompPolicy, value, what)
    if policy.name != name:
        raise MalformedInput(what, f"expected the file's name inside it, found {policy.name}")
    allowed = {call for rule in policy.allow for call in rule.calls}
    refused = [call for rule in policy.refuse for call in rule.calls]
    for call in sorted(allowed | set(refused)):
        if not syscalls.known(call):
            raise MalformedInput(what, f"expected a system call of the table, found {call!r}")
    if clash := sorted(allowed & set(refused)) or sorted(call for call in refused if refused.count(call) > 1):
        raise MalformedInput(what, f"expected one verdict for each call, found two for {clash[0]}")
    for error_name in (policy.default, *(rule.error for rule in policy.refuse)):
        error_number(error_name, what)
    return policy


def error_number(name: str, what: str = "seccomp policy") -> int:
    """1 for `EPERM`. Raises `MalformedInput` for a name that is no error."""
    value = getattr(errno, name, None)
    if not name.startswith("E") or not isinstance(value, int):
        raise MalformedInput(what, f"expected the name of an error, found {name!r}")
    return value


def policy_digest(name: str) -> str:
    """The digest of the policy file `name`, as it goes into a plan."""
    return digest_of(read_policy(name))
