"""A TPM 2.0 as far as evidence needs it: read registers, extend one, make an attestation key, quote.

Commands are built and answers taken apart here, over `/dev/tpmrm0` or `/dev/tpm0` of the guest, or over the socket of
a software TPM: five commands are less code, and less to trust, than a TPM stack. What is made lives in the TPM until it
is reset: the key is a primary key of the endorsement hierarchy, restricted to signing what the TPM itself says.

Numbers on the wire are big endian. An error code of the TPM raises `EnvironmentProblem`, an answer out of form
`MalformedInput`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from attest.errors import EnvironmentProblem, MalformedInput

DEVICES = ("/dev/tpmrm0", "/dev/tpm0")
REGISTERS = 24
DIGEST = 32
MAX_ANSWER_BYTES = 4096
MAX_NONCE_BYTES = 64
RETRIES = 500
PAUSE_S = 0.01

NO_SESSIONS, SESSIONS = 0x8001, 0x8002
ENDORSEMENT = 0x4000000B
SHA256, ECDSA, ECC, P256, NULL = 0x000B, 0x0018, 0x0023, 0x0003, 0x0010
RETRY = (0x922, 0x90A, 0x908)
"""Busy: testing itself, or yielding to another command."""
PCR_EXTEND, PCR_READ, CREATE_PRIMARY, QUOTE, FLUSH = 0x182, 0x17E, 0x131, 0x158, 0x165
PASSWORD = struct.pack(">IIHBH", 9, 0x40000009, 0, 0, 0)
"""One session: the empty password."""
KEY_ATTRIBUTES = 0x00050072
"""Restricted, signs, made in this TPM and bound to it, used with its password."""


@dataclass(frozen=True)
class Key:
    """An attestation key in the TPM."""

    handle: int
    """By what the TPM knows it."""
    public: bytes
    """The public part, as the TPM names it (TPMT_PUBLIC)."""
    point: bytes
    """Its point on P-256, uncompressed: 0x04, x, y."""


@dataclass(frozen=True)
class Quote:
    """What the TPM says and signs about its registers."""

    attested: bytes
    """TPMS_ATTEST: the nonce, the clock, which registers, and SHA-256 over their values."""
    signature: bytes
    """TPMT_SIGNATURE over it: ECDSA with SHA-256."""


class Tpm:
    """An open TPM. Use it in a `with` statement."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, registers: Iterable[int]) -> dict[int, bytes]:
        """The SHA-256 values of `registers`. One that the TPM does not have is an `EnvironmentProblem`."""
        values = {}
        for register in registers:
            answer = Answer(self.command(PCR_READ, b"", b"", _selection([register])))
            answer.take(4)  # how often any register was extended
            (selections,) = answer.numbers("I")
            for _ in range(selections):
                answer.take(2)
                answer.take(*answer.numbers("B"))
            if answer.numbers("I") != (1,):
                raise EnvironmentProblem(f"the TPM has no SHA-256 register {register}: switch its SHA-256 bank on")
            values[register] = answer.sized()
            answer.end()
        return values

    def extend(self, register: int, digest: bytes) -> None:
        """Extend `register` by the 32 bytes of `digest`."""
        if len(digest) != DIGEST or not 0 <= register < REGISTERS:
            raise RuntimeError(f"extend takes a register and 32 bytes, found {register} and {len(digest)}")
        self.command(PCR_EXTEND, struct.pack(">I", register), PASSWORD, struct.pack(">IH", 1, SHA256) + digest)

    def create_key(self) -> Key:
        """A new attestation key: ECDSA on P-256, derived from the TPM's endorsement seed."""
        unique = sized(b"") + sized(b"")
        kind = struct.pack(">HHI", ECC, SHA256, KEY_ATTRIBUTES) + sized(b"")
        template = kind + struct.pack(">HHHHH", NULL, ECDSA, SHA256, P256, NULL) + unique
        parameters = sized(sized(b"") + sized(b"")) + sized(template) + sized(b"") + struct.pack(">I", 0)
        answer = Answer(self.command(CREATE_PRIMARY, struct.pack(">I", ENDORSEMENT), PASSWORD, parameters))
        (handle,) = answer.numbers("I")
        answer.take(4)
        public = answer.sized()
        return Key(handle, public, point(public))

    def quote(self, key: Key, nonce: bytes, registers: Sequence[int]) -> Quote:
        """A quote of `registers` by `key` that bears the `nonce`, of at most 64 bytes."""
        if len(nonce) > MAX_NONCE_BYTES:
            raise RuntimeError(f"a nonce has at most {MAX_NONCE_BYTES} bytes, found {len(nonce)}")
        parameters = sized(nonce) + struct.pack(">H", NULL) + _selection(registers)
        answer = Answer(self.command(QUOTE, struct.pack(">I", key.handle), PASSWORD, parameters))
        body = Answer(answer.take(*answer.numbers("I")))
        attested = body.sized()
        return Quote(attested, body.rest())

    def flush(self, key: Key) -> None:
        """Remove `key` from the TPM."""
        self.command(FLUSH, b"", b"", struct.pack(">I", key.handle))

    def close(self) -> None:
        """Close the connection."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def command(self, code: int, handles: bytes, session: bytes, parameters: bytes) -> bytes:
        """What the TPM answers, without the header. `session` is the authorization area, with its size, or empty."""
        body = handles + session + parameters
        command = struct.pack(">HII", SESSIONS if session else NO_SESSIONS, 10 + len(body), code) + body
        for _ in range(RETRIES):
            answer = self._exchange(command)
            _, size, result = struct.unpack_from(">HII", answer)
            if size != len(answer):
                raise MalformedInput("TPM answer", f"expected {size} bytes, found {len(answer)}")
            if result not in RETRY:
                break
            time.sleep(PAUSE_S)
        if result:
            raise EnvironmentProblem(
                f"the TPM refuses command {code:#x} with {result:#x}: look that up in TPM 2.0 part 2"
            )
        return answer[10:]

    def _exchange(self, command: bytes) -> bytes:
        try:
            os.write(self._fd, command)
            answer = os.read(self._fd, MAX_ANSWER_BYTES)
            # A device gives the whole answer at once; a socket may give it in pieces.
            while 6 <= len(answer) < min(int.from_bytes(answer[2:6], "big"), MAX_ANSWER_BYTES):
                more = os.read(self._fd, MAX_ANSWER_BYTES - len(answer))
                if not more:
                    break
                answer += more
        except OSError as error:
            raise EnvironmentProblem(f"the TPM does not answer: {error.strerror}") from None
        if len(answer) < 10:
            raise MalformedInput("TPM answer", f"expected at least 10 bytes, found {len(answer)}")
        return answer


def open_device() -> Tpm:
    """The TPM of this machine. Raises `EnvironmentProblem` that says which devices were tried."""
    for device in DEVICES:
        with contextlib.suppress(FileNotFoundError):
            try:
                return Tpm(os.open(device, os.O_RDWR | os.O_CLOEXEC))
            except PermissionError:
                raise EnvironmentProblem(f"{device}: not allowed; join the group that owns it, or be root") from None
    raise EnvironmentProblem(f"this machine has no TPM: neither of {', '.join(DEVICES)} is there")


def open_path(path: Path) -> Tpm:
    """The TPM that the device at `path` is. Raises `OSError`."""
    return Tpm(os.open(path, os.O_RDWR | os.O_CLOEXEC))


def open_socket(path: Path) -> Tpm:
    """A software TPM that serves commands at the Unix socket `path` (`swtpm socket --server type=unixio,path=...`)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(path))
        except OSError as error:
            raise EnvironmentProblem(f"no software TPM at {path}: {error.strerror}") from None
        return Tpm(connection.detach())


def point(public: bytes) -> bytes:
    """The uncompressed point of a TPMT_PUBLIC that holds a P-256 key. Raises `MalformedInput` for other keys."""
    answer = Answer(public)
    kind, name, _ = answer.numbers("HHI")
    answer.sized()
    scheme = answer.numbers("HHHHH")
    x, y = answer.sized(), answer.sized()
    answer.end()
    if (kind, name) != (ECC, SHA256) or scheme != (NULL, ECDSA, SHA256, P256, NULL) or max(len(x), len(y)) > DIGEST:
        raise MalformedInput("TPM key", "expected an ECDSA key on P-256 with SHA-256")
    return b"\x04" + x.rjust(DIGEST, b"\0") + y.rjust(DIGEST, b"\0")


def wire(values: Mapping[int, bytes]) -> dict[str, str]:
    """Register values as JSON has them: numbers as text, values in hexadecimal digits."""
    return {str(register): value.hex() for register, value in sorted(values.items())}


def _selection(registers: Iterable[int]) -> bytes:
    """TPML_PCR_SELECTION: these registers of the SHA-256 bank."""
    bits = sum(1 << register for register in set(registers))
    return struct.pack(">IHB", 1, SHA256, 3) + bits.to_bytes(3, "little")


def sized(data: bytes) -> bytes:
    """`data` after its 16-bit size (TPM2B)."""
    return struct.pack(">H", len(data)) + data


class Answer:
    """Takes big-endian numbers and bytes from the front of an answer."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if self._at + count > len(self._data):
            raise MalformedInput("TPM answer", f"expected {count} bytes at {self._at}, found the end")
        self._at += count
        return self._data[self._at - count : self._at]

    def numbers(self, form: str) -> tuple[int, ...]:
        """The next numbers, as `struct` names their widths."""
        return struct.unpack(f">{form}", self.take(struct.calcsize(f">{form}")))

    def sized(self) -> bytes:
        """The bytes after a 16-bit size."""
        return self.take(*self.numbers("H"))

    def rest(self) -> bytes:
        """All that follows."""
        return self.take(len(self._data) - self._at)

    def end(self) -> None:
        """Nothing may follow."""
        if self._at != len(self._data):
            raise MalformedInput("TPM answer", f"expected its end at {self._at}, found {len(self._data)} bytes")
