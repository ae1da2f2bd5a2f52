"""The firmware's log: its forms, its limits, its replay, and what is read out of it."""

from __future__ import annotations

import hashlib
import struct

import pytest

from attest.errors import MalformedInput
from attest.tpm import boot, eventlog
from attest.tpm.eventlog import Log
from tests.fakes.tpm import event, spec_id, variable

LOCALITY = b"StartupLocality\0"
END = event(7, 4, bytes(4))
SHA1 = ("sha1",)


def header(body: bytes) -> bytes:
    """A first event with this body."""
    return struct.pack("<II20xI", 0, 3, len(body)) + body


def algorithms(*pairs: tuple[int, int], count: int | None = None, vendor: bytes = b"\0") -> bytes:
    """A header with these algorithms."""
    listed = b"".join(struct.pack("<HH", *pair) for pair in pairs)
    return header(
        b"Spec ID Event03\0" + bytes(8) + struct.pack("<I", len(pairs) if count is None else count) + listed + vendor
    )


def old(register: int, kind: int, data: bytes) -> bytes:
    """An event of the old form."""
    return struct.pack("<II", register, kind) + hashlib.sha1(data).digest() + struct.pack("<I", len(data)) + data


def test_each_bank_is_replayed_by_its_own_hash() -> None:
    log = eventlog.parse(
        spec_id(("sha1", "sha256", "sha384", "sha512"))
        + event(4, 4, b"x", banks=("sha1", "sha256", "sha384", "sha512"))
    )
    assert log.banks == ("sha1", "sha256", "sha384", "sha512")
    for bank in log.banks:
        size = hashlib.new(bank).digest_size
        assert eventlog.replay(log, bank) == {
            4: hashlib.new(bank, bytes(size) + hashlib.new(bank, b"x").digest()).digest()
        }
    with pytest.raises(RuntimeError):
        eventlog.replay(eventlog.parse(spec_id(SHA1)), "sha256")


def test_a_register_that_nothing_extended() -> None:
    assert [eventlog.untouched(register, "sha1")[0] for register in (0, 16, 17, 22, 23)] == [0, 0, 255, 255, 0]


def test_the_old_form_is_a_log_of_sha_1() -> None:
    log = eventlog.parse(old(0, 8, b"version") + old(7, 4, bytes(4)))
    assert (log.banks, [item.register for item in log.events]) == (("sha1",), [0, 7])
    for data in (old(0, 8, b"version")[:-1], old(24, 8, b""), old(0, 8, b"") + old(24, 4, b"")):
        with pytest.raises(MalformedInput):
            eventlog.parse(data)


def test_an_algorithm_that_is_not_known_is_stepped_over() -> None:
    data = algorithms((0x0B, 32), (0x12, 32)) + struct.pack("<III", 1, 4, 2)
    data += (
        struct.pack("<H", 0x12)
        + bytes(32)
        + struct.pack("<H", 0x0B)
        + hashlib.sha256(b"x").digest()
        + struct.pack("<I", 0)
    )
    log = eventlog.parse(data)
    assert (log.banks, [*log.events[0].digests]) == (("sha256",), ["sha256"])


GOOD = event(4, 4, b"x")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes((1 << 20) + 1),
        header(b"Spec ID Event02\0" + bytes(20)),
        algorithms(count=0),
        algorithms(*[(0x0B + n, 32) for n in range(9)]),
        algorithms((0x0B, 20)),
        algorithms((0x12, 65)),
        algorithms((0x12, 0), (0x0B, 32)),
        algorithms((0x0B, 32), (0x0B, 32)),
        algorithms((0x12, 32)),
        algorithms((0x0B, 32), vendor=b"\0\0"),
        algorithms((0x0B, 32), vendor=b"\2\0"),
        spec_id() + GOOD[:-1],
        spec_id() + GOOD + b"\0",
        spec_id() + event(24, 4, b"x"),
        spec_id() + event(4, 4, b"x", banks=("sha1", "sha256")),
        spec_id() + event(4, 4, b"x", banks=("sha1", "sha256", "sha384", "sha512")),
        spec_id() + event(4, 4, b"x", banks=("sha1", "sha256", "sha512")),
        spec_id() + event(4, 4, b"x", banks=("sha1", "sha256", "sha256")),
        spec_id(SHA1) + event(4, 4, b"", banks=SHA1) * 4097,
        old(4, 4, b"") * 4097,
        spec_id() + struct.pack("<IIIHI", 4, 4, 3, 4, 0xFFFFFFFF),
    ],
)
def test_other_logs_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedInput, match="TCG event log"):
        eventlog.parse(data)


def test_the_banks_of_a_header_are_bounded() -> None:
    unknown = [(0x100 + number, 64) for number in range(eventlog.MAX_BANKS)]
    assert eventlog.parse(algorithms((0xB, 32), *unknown[1:])).banks == ("sha256",)
    assert eventlog.parse(algorithms((0xB, 32), (0x100, 1))).banks == ("sha256",)
    with pytest.raises(MalformedInput, match="1 to 8 algorithms, found 0"):
        eventlog.parse(algorithms(count=0))
    for pairs, said in (
        (((0xB, 32), *unknown), "1 to 8 algorithms, found 9"),
        (((0xB, 32), (0x100, 65)), "digest size of algorithm 0x0100, found 65"),
        (((0xB, 32), (0x100, 0)), "digest size of algorithm 0x0100, found 0"),
        (((0xB, 20),), "digest size of algorithm 0x000b, found 20"),
        (((0xB, 32), (0xB, 32)), "different algorithms"),
        ((unknown[0],), "different algorithms"),
    ):
        with pytest.raises(MalformedInput, match=said):
            eventlog.parse(algorithms(*pairs))
    with pytest.raises(MalformedInput, match="at most 1048576 bytes"):
        eventlog.parse(bytes(eventlog.MAX_BYTES + 1))


def test_the_limits_are_reached() -> None:
    assert len(eventlog.parse(spec_id(SHA1) + event(4, 4, b"", banks=SHA1) * 4096).events) == 4096
    start = spec_id(SHA1)
    room = (1 << 20) - len(start) - len(event(4, 4, b"", banks=SHA1))
    assert len(eventlog.parse(start + event(4, 4, bytes(room), banks=SHA1)).events) == 1
    vendor = algorithms((0x12, 64), (0x0B, 32), vendor=b"\2ab")
    assert eventlog.parse(vendor) == Log(("sha256",), (), 0)
    assert eventlog.parse(algorithms((0x0B, 32), *[(0x100 + n, 1) for n in range(7)])).banks == ("sha256",)


@pytest.mark.parametrize("locality", [0, 3, 4])
def test_register_0_begins_with_the_startup_locality(locality: int) -> None:
    log = eventlog.parse(spec_id() + event(0, 3, LOCALITY + bytes([locality])) + event(0, 8, b"v") + event(1, 8, b"v"))
    digest = hashlib.sha256(b"v").digest()
    values = eventlog.replay(log, "sha256")
    assert values[0] == hashlib.sha256(bytes(31) + bytes([locality]) + digest).digest()
    assert values[1] == hashlib.sha256(bytes(32) + digest).digest()


@pytest.mark.parametrize(
    "events",
    [
        event(0, 8, b"v") + event(0, 3, LOCALITY + b"\3"),
        event(0, 3, LOCALITY + b"\3") * 2,
        event(0, 3, LOCALITY + b"\0") * 2,
        event(1, 3, LOCALITY + b"\3"),
        event(0, 3, LOCALITY),
        event(0, 3, LOCALITY + b"\3\0"),
        event(0, 3, LOCALITY + b"\2"),
    ],
)
def test_a_startup_locality_that_could_be_added_later_is_refused(events: bytes) -> None:
    with pytest.raises(MalformedInput, match="locality"):
        eventlog.parse(spec_id() + events)


def test_events_that_say_something_extend_nothing() -> None:
    said = event(0, 3, b"SP800-155 Event3" + bytes(16)) + event(1, 8, b"v") + event(0, 3, LOCALITY + b"\3")
    log = eventlog.parse(spec_id() + said)
    assert (set(eventlog.replay(log, "sha256")), log.locality, len(log.events)) == ({1}, 3, 3)


# What is read out of it -----------------------------------------------------------------------------------------------


def read(*events: bytes, explained: range | set[int] = range(24)) -> boot.Boot:
    """What these events say."""
    return boot.read(eventlog.parse(spec_id() + b"".join(events)), "sha256", explained)


def state(data: bytes, **fields: bytes | None) -> bytes:
    """The event that says whether Secure Boot is on."""
    return event(7, 0x80000001, variable("SecureBoot", data), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("events", "found"),
    [
        ((state(b"\1"), END), True),
        ((state(b"\0"), END), False),
        ((state(b"\1"), event(7, 4, b"\xff" * 4)), True),
        ((state(b"\2"), END), None),
        ((state(b""), END), None),
        ((state(b"\1"), state(b"\1"), END), None),
        ((END, state(b"\1")), None),
        ((state(b"\1"),), None),
        ((state(b"\1"), event(7, 4, b"\1\0\0\0")), None),  # the firmware says that something went wrong
        ((state(b"\1", hashed=b"other"), END), None),
        # Types are not measured: neither a hidden separator nor a hidden setting lets another one in.
        ((state(b"\0"), event(7, 5, b"", hashed=bytes(4)), state(b"\1"), END), False),
        ((event(7, 0x80000007, b"", hashed=variable("SecureBoot", b"\0")), END, state(b"\1"), END), None),
        ((state(b"\1"), event(7, 5, b"", hashed=b"\1\0\0\0"), END), None),
        ((event(7, 3, variable("SecureBoot", b"\0")), state(b"\1"), END), True),
        ((event(1, 0x80000001, variable("SecureBoot", b"\1")), END), None),
        ((event(7, 0x80000001, variable("SecureBoot", b"\1", vendor="00" * 16)), END), None),
        ((event(7, 0x80000001, variable("SecureBoat", b"\1")), END), None),
        ((event(7, 0x80000001, variable("SecureBoot", b"\1") + b"\0"), END), None),
        ((event(7, 0x80000001, variable("SecureBoot", b"\1")[:-1]), END), None),
        ((event(7, 0x80000001, bytes(16) + struct.pack("<QQ", 1, 0) + b"\0\xd8"), state(b"\1"), END), True),
    ],
)
def test_secure_boot_is_read_where_it_can_only_be_the_firmware_that_says_so(
    events: tuple[bytes, ...], found: bool | None
) -> None:
    assert read(*events).secure_boot is found
    assert read(*events, explained=set(range(24)) - {7}).secure_boot is None


@pytest.mark.parametrize(
    ("events", "found"),
    [
        ((event(7, 5, b"UEFI Debug Mode"), END), True),
        ((event(7, 0x80000007, b"UEFI Debug Mode\0"), END), True),
        ((event(7, 0xD, b"something else", hashed=b"UEFI Debug Mode"), END), True),
        ((END, event(7, 5, b"UEFI Debug Mode"), END), False),
        ((event(7, 0x80000007, b"Exit Boot Services"), END), False),
        ((event(5, 0x80000007, b"UEFI Debug Mode"), END), False),
    ],
)
def test_a_debugger_is_read(events: tuple[bytes, ...], found: bool) -> None:
    assert read(*events).debug is found


def signature_list(kind: str, *entries: bytes) -> bytes:
    """EFI_SIGNATURE_LIST."""
    size = 16 + len(entries[0])
    return (
        bytes.fromhex(kind)
        + struct.pack("<III", 28 + size * len(entries), 0, size)
        + b"".join(bytes(16) + item for item in entries)
    )


SHA256_LIST, X509_LIST = "2616c4c14c509240aca941f936934328", "a159c0a5e494a74a87b5ab155c2bf072"
IMAGE_SECURITY = "cbb219d73a3d9645a3bcdad00e67656f"


def test_lists_of_keys_are_read() -> None:
    entries = signature_list(SHA256_LIST, b"a" * 32, b"b" * 32) + signature_list(X509_LIST, b"certificate")
    found = read(event(7, 0x80000001, variable("dbx", entries, IMAGE_SECURITY)), END)
    assert found.lists == {"dbx": ((b"a" * 32).hex(), (b"b" * 32).hex(), hashlib.sha256(b"certificate").hexdigest())}
    for bad in (
        entries[:-1],
        signature_list("00" * 16, b"x"),
        signature_list(SHA256_LIST, b"x" * 31),
        entries[:16] + bytes(12),
    ):
        assert read(event(7, 0x80000001, variable("dbx", bad, IMAGE_SECURITY)), END).lists == {}
    assert read(event(7, 0x80000001, variable("dbx", entries)), END).lists == {}


def test_programs_are_read_by_their_digest() -> None:
    node = "\\EFI\\a.efi\0".encode("utf-16-le")
    path = struct.pack("<BBH", 4, 4, 4 + len(node)) + node + struct.pack("<BBH", 0x7F, 0xFF, 4)
    data = bytes(24) + struct.pack("<Q", len(path)) + path
    digest = hashlib.sha256(b"authenticode").hexdigest()
    (found,) = read(event(4, 0x80000003, data, hashed=b"authenticode")).programs
    assert (found.digest, found.path) == (digest, "\\EFI\\a.efi")
    assert [item.path for item in read(event(4, 0x80000003, data[:40]), event(4, 0x80000003, b"")).programs] == ["", ""]
    assert read(event(2, 0x80000003, data)).programs == ()
    # Under another type it is one still; what the firmware itself says there is none.
    assert read(event(4, 0x80000007, b"Exit", hashed=b"authenticode")).programs[0].digest == digest
    assert read(event(4, 5, b"Exit")).programs != ()
    words = (b"Calling EFI Application from Boot Option", bytes(4), b"\xff" * 4, b"\1\0\0\0", b"BOOT ATTEMPTS OMITTED")
    assert read(*(event(4, 0x80000003, word) for word in words)).programs == ()
    assert read(event(4, 0x80000003, data), explained={7}).programs == ()


@pytest.mark.parametrize(
    ("item", "text", "measured"),
    [
        (event(8, 0xD, b"grub_cmd: set a=b\0", hashed=b"set a=b"), "grub_cmd: set a=b", True),
        (event(9, 0xD, b"(hd0)/grub.cfg\0", hashed=b"its content"), "(hd0)/grub.cfg", False),
        (event(12, 0xD, "quiet one=1\0".encode("utf-16-le")), "quiet one=1", True),
        (event(11, 0xD, ".linux\0".encode("utf-16-le"), hashed=b"kernel"), ".linux", False),
        (event(9, 6, struct.pack("<II", 0x8F3B22EC, 13) + b"Linux initrd\0", hashed=b"content"), "Linux initrd", False),
        (event(9, 6, struct.pack("<II", 1, 1) + b"a"), "a", True),
        (event(8, 0xD, b"bell\a", hashed=b""), "bell\ufffd", False),
        (event(8, 0xD, b"", hashed=b"x"), "", False),
        (event(8, 0xD, b"\xe9\0", hashed=b"x"), "\ufffd", False),
    ],
)
def test_what_boot_loaders_measured_is_told_from_what_they_say(item: bytes, text: str, measured: bool) -> None:
    (found,) = read(item).loads
    assert (found.text, found.measured) == (text, measured)
    assert found.model_dump(by_alias=True)["register"] in (8, 9, 11, 12)
