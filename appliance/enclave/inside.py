"""The inside of a wall: says hello, is told what to run, runs it as any other run, and asks the host's lab.

`python3 -I -m appliance inside [PORT]` is the entry point of the image. The channel is standard input and output, or
PORT, a device that is both. What the run or a library prints goes to standard error.

Three threads: this one runs, one reads the channel (answers, Ctrl-C, the host's end), one writes it, so that Ctrl-C
never cuts a frame in two. When the host is gone the process ends at once, and its workers with it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.frames import ChannelError, Kind, Reader, pack, write_all

if TYPE_CHECKING:
    from appliance.attester.protocol import Attester
    from appliance.enclave.channel import Done, Failed, Start
    from appliance.run import Outcome

PROGRESS_INTERVAL_S = 0.2
ANSWER_TIMEOUT_S = 120.0
"""How long the lab may think about a question."""


class Link:
    """The inside's end of the channel, with its two threads."""

    def __init__(self, fd_in: int, fd_out: int) -> None:
        self.reader = Reader(fd_in)
        self._out = fd_out
        self._unsent: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="channel-out", daemon=True)
        self._writer.start()
        self._tag = 0
        self._finishing = False

    def send(self, kind: Kind, payload: bytes, route: int = 0, tag: int = 0) -> None:
        """Have a frame sent, after those before it."""
        self._unsent.put(pack(kind, payload, route, tag))

    def listen(self) -> None:
        """From now on, take what comes."""
        threading.Thread(target=self._read, name="channel-in", daemon=True).start()

    def ask(self, question: bytes) -> bytes:
        """The notary's answer to a question. Raises `ChannelError` when none comes in time."""
        self._tag += 1
        self.send(Kind.REQUEST, question, 0, self._tag)
        try:
            return self._answers.get(timeout=ANSWER_TIMEOUT_S)
        except queue.Empty:
            raise ChannelError(f"expected the lab's answer within {ANSWER_TIMEOUT_S:g} s, found none") from None

    def finish(self, kind: Kind, payload: bytes) -> None:
        """Send the last frame, and wait until all are sent. From now on the host may go."""
        self._finishing = True
        self.send(kind, payload)
        self._unsent.put(None)
        self._writer.join()

    def _write(self) -> None:
        while (data := self._unsent.get()) is not None:
            try:
                write_all(self._out, data)
            except (ChannelError, OSError):
                _end("the host is gone")

    def _read(self) -> None:
        try:
            while True:
                frame = self.reader.receive()
                if frame.kind == Kind.REPLY and frame.tag == self._tag:
                    self._answers.put(frame.payload)
                elif frame.kind == Kind.STOP:
                    # As Ctrl-C in a terminal: to the main thread, wherever it waits.
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                else:
                    _end(f"{frame.kind.name} from the host is out of place")
        except (ChannelError, OSError) as error:
            if not self._finishing:
                _end(str(error))


class Reporting:
    """The progress callback: a frame now and then, and the first and last of each phase."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._sent: dict[str, float] = {}

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Report that `done` of `total` of `phase` is done."""
        from appliance.enclave.channel import Service, Step
        from attest import canonical

        with self._lock:
            now = time.monotonic()
            if done < total and now - self._sent.get(phase, 0.0) < PROGRESS_INTERVAL_S:
                return
            self._sent[phase] = now
        step = Step(phase=phase[:200], done=done, total=total)
        self._link.send(Kind.REQUEST, canonical.dump_model(step), Service.PROGRESS)


def main(arguments: Sequence[str] = (), attester: Attester | None = None) -> int:
    """Run what the host asks for, with the hardware that speaks for it; the exit status."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()  # what an import makes stays, and would be looked through again and again
    link = Link(*_open(arguments))
    # Hello comes before the imports that take time: it says that the wall stands and Python runs in it.
    link.send(Kind.HELLO, _hello())
    return _serve(link, attester)


def _open(arguments: Sequence[str]) -> tuple[int, int]:
    """Descriptors of the channel that nothing else in this process writes to."""
    if arguments:
        port = os.open(arguments[0], os.O_RDWR | os.O_CLOEXEC)
        return port, port
    link = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return link


def _hello() -> bytes:
    from attest import __version__

    # Written by hand, because the models are imported after this.
    return b'{"format":"vitrine/enclave-hello/v1","version":"%b"}' % __version__.encode("ascii")


def _serve(link: Link, attester: Attester | None) -> int:
    # structlog imports it to show tracebacks with variables, which nobody does here.
    sys.modules["rich"] = None  # type: ignore[assignment]
    from appliance import logs
    from appliance.enclave.channel import Done, Start
    from attest import canonical

    logs.configure(verbose=False)
    try:
        frame = link.reader.receive()
        if frame.kind != Kind.CONFIG:
            raise ChannelError(f"expected CONFIG from the host, found {frame.kind.name}")
        start = canonical.parse(Start, frame.payload, "start of the run")
        logs.configure(verbose=start.verbose)
        link.listen()
        done = _lock(start, link) if start.task == "lock" else Done(ended_by=_run(start, link, attester).ended_by)
    except BaseException as error:  # whatever it is, the host is told, and one line of it
        failed = _failed(error)
        link.finish(Kind.FAILURE, canonical.dump_model(failed))
        return failed.exit
    link.finish(Kind.RESULTS, canonical.dump_model(done))
    return 0


def _lock(start: Start, link: Link) -> Done:
    from appliance import job, lock
    from appliance.enclave.channel import Done
    from appliance.engine.recipe import load_record

    gc.enable()
    loaded, engine = job.load(Path(start.job)), Path(start.engine)
    suites = job.load_suites(loaded, tuple(Path(folder) for folder in start.data))
    text = lock.make(
        loaded,
        suites,
        engine=engine,
        record=load_record(engine),
        root=Path(start.out),
        version=start.version,
        progress=Reporting(link),
    )
    return Done(ended_by="done", lock=text)


def _run(start: Start, link: Link, attester: Attester | None) -> Outcome:
    from appliance import run
    from appliance.enclave import delivery
    from appliance.notary.remote import RemoteNotary

    gc.enable()
    request = run.Request(
        job=Path(start.job),
        lab=RemoteNotary(start.lab, start.trusted_root or b"", start.challenge or "", link.ask),
        engine=Path(start.engine),
        out=Path(start.out),
        lock=Path(start.lock) if start.lock else None,
        data=tuple(Path(folder) for folder in start.data),
        sign_incomplete=start.sign_incomplete,
        require_seal=start.require_seal,
        wall=start.wall,
        container=start.container,
        attester=attester,
        resume_key=_resume_key(start),
        resume=start.resume,
    )
    try:
        outcome = run.run(request, Reporting(link))
    except BaseException:
        if start.deliver == "channel":
            with contextlib.suppress(OSError):
                delivery.send_incomplete(request.out, link.send)
        raise
    if start.deliver == "channel":
        delivery.send_bundle(outcome.bundle, link.send)
    return outcome


def _resume_key(start: Start) -> Callable[[str], bytes] | None:
    """The lab's key for the one job that is run here."""
    if start.resume_key is None:
        return None
    key = bytes.fromhex(start.resume_key)
    return lambda _job_digest: key


def _failed(error: BaseException) -> Failed:
    """What the host is told about an error, with the exit code that it has in front of the wall."""
    from appliance import logs
    from appliance.enclave.channel import INTERRUPTED, MAX_MESSAGE_CHARS, Failed
    from appliance.relay import WorkerFailure
    from attest.errors import VitrineError

    exit_code, message = 1, str(error)
    if isinstance(error, KeyboardInterrupt):
        exit_code, message = INTERRUPTED, "interrupted"
    elif isinstance(error, (VitrineError, WorkerFailure)):
        exit_code = int(error.exit_code)
    elif isinstance(error, OSError):
        message = f"{error.filename or 'appliance'}: {error.strerror or error}"
    elif not isinstance(error, ChannelError):
        # A bug. Its message may quote anything, so that it stays here; its places do not.
        sys.stderr.write(logs.crash(error) + "\n")
        message = f"a bug, {type(error).__name__}: see the lines before this one"
    name = type(error).__name__[:100]
    return Failed.model_validate({"code": name, "message": message[:MAX_MESSAGE_CHARS], "exit": exit_code})


def _end(reason: str) -> None:
    """End at once; the kernel kills the workers when this process is gone."""
    sys.stderr.write(f"inside: {reason}\n")
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
