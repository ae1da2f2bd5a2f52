"""What the operator may see of a worker's words, once the worker has been given prompts.

A worker that has not seen them yet may say what it likes: it was given its plan, and a model worker its model. From
the moment on at which the controller hands it prompts, what it prints and what it reports may quote them: a traceback
shows the value that broke it, a library prints what it could not parse. Then only such parts pass that come from a
fixed vocabulary: the class of an error, a file of this installation and a line in it, a place in an engine's source,
numbers of rows, names out of the job. All else is counted, and an error's own words go to `FAILURE_FILE` in the run's
`.incomplete` folder, beside the transcript, which is where prompts and completions belong.

This stops accidents. A worker that was taken over can still say something by what it chooses out of the vocabulary;
`MAX_SHOWN_LINES` bounds how much.
"""

from __future__ import annotations

import builtins
import os
import re
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import appliance
from attest.errors import MalformedInput

FAILURE_FILE = "failure.txt"
"""Holds what a failed worker said, in the `.incomplete` folder; its owner alone can read it."""
KEPT = f"in {FAILURE_FILE} of the run's .incomplete folder"
MAX_SHOWN_LINES = 64
"""Lines of one worker that are shown once it has prompts."""
MAX_WORDS_CHARS = 16 << 10
WITHHELD = "(message withheld)"

_OURS = frozenset(
    {
        "ChannelError", "ChatTemplateError", "EnvironmentProblem", "Exceeded", "GrammarError", "MalformedInput",
        "RequestError", "SecurityError", "TemplateError", "TemplateRuntimeError", "TemplateSyntaxError",
        "UndefinedError", "Unsupported", "ValidationError", "VerificationError", "VitrineError",
    }
)  # fmt: skip
"""Classes of errors, beside Python's own, that are named to the operator."""

_TRACEBACK = re.compile(r"^Traceback \(most recent call last\):$")
_FRAME = re.compile(r'^ +File "(/[^"]{1,400})", line ([0-9]{1,7}), in ')
_ERROR = re.compile(r"^(?:[A-Za-z_][A-Za-z0-9_]*\.)*([A-Z][A-Za-z0-9]{2,60})(?::|$)")
_ENGINE = re.compile(r"(?:^|/)((?:ggml|llama)[a-z-]{0,30}\.(?:c|cpp|h)):([0-9]{1,6}): GGML_(ASSERT|ABORT)\b")
_PLACES = (
    re.compile(r"\b(row [0-9]{1,9})\b"),
    re.compile(r"\b(line [0-9]{1,9})\b"),
    re.compile(
        r"\b(template '(?:prompt\.(?:system|user)|columns\.(?:id|target|category|choice|choices(?:\.[0-9]{1,3})?)|"
        r"shots\.(?:user|assistant))')"
    ),
)


class Discretion:
    """What is shown of one worker's words. It is free until `begin`, and discreet from then on.

    `kept`: where its failure's own words are to be found, for the operator.
    """

    def __init__(self, kept: str = KEPT) -> None:
        self._kept = kept
        self._discreet = False
        self._names: frozenset[str] = frozenset()
        self._shown = 0
        self._withheld = 0

    @property
    def discreet(self) -> bool:
        """Whether the worker has been given prompts."""
        return self._discreet

    def begin(self, names: Iterable[str] = ()) -> None:
        """The worker is about to be given prompts. `names`: of suites, which may be named to the operator."""
        self._names = frozenset(names)
        self._discreet = True

    def line(self, data: bytes) -> str | None:
        """What is shown of a line of its standard error; None for nothing. Call it for each, in order."""
        text = printable(data.decode("utf-8", "replace"))
        if not self._discreet:
            return text
        shown = _shape(text) if self._shown < MAX_SHOWN_LINES else None
        if shown is not None:
            self._shown += 1
            return shown
        self._withheld += 1
        # At the first line, the tenth, the hundredth: often enough to see that a worker is talking.
        if str(self._withheld).strip("0") == "1":
            return f"({self._withheld} lines withheld: they may quote prompts)"
        return None

    def failure(self, code: str, message: str) -> tuple[str, str]:
        """What is said of an error that the worker reports, and what of it has to go to `FAILURE_FILE`, if anything.

        `code` is the error's class, by the worker's own account.
        """
        if not self._discreet:
            return message, ""
        places = [found[1] for pattern in _PLACES if (found := pattern.search(message))]
        suite = re.match(r"suite ([^\s:]{1,100}):", message)
        if suite and suite[1] in self._names:
            places.insert(0, f"suite {suite[1]}")
        where = f" at {', '.join(places)}" if places else ""
        return f"{_class(code) or 'an error'}{where}; its message may quote prompts and is {self._kept}", message


class Withheld(MalformedInput):
    """What a worker sent cannot be read, and saying why may quote prompts: `words` has that."""

    def __init__(self, what: str, problem: str, words: str) -> None:
        super().__init__(what, problem)
        self.words = words


@contextmanager
def unquoted(discretion: Discretion) -> Iterator[None]:
    """For reading what a worker sent: once it has prompts, a `MalformedInput` leaves the context as `Withheld`."""
    try:
        yield
    except MalformedInput as error:
        problem, words = discretion.failure(type(error).__name__, error.problem)
        if not words:
            raise
        raise Withheld(error.what, problem, words) from None


def printable(text: str) -> str:
    """Text that a worker wrote, without what could steer a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def keep(error: BaseException, folder: Path) -> None:
    """Write the withheld words of `error` (its attribute `words`), if there are any, to `FAILURE_FILE` in `folder`."""
    words = getattr(error, "words", "")
    if not words or not folder.is_dir():
        return
    path = folder / FAILURE_FILE
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8", errors="replace") as file:
        file.write(f"{type(error).__name__}: {words[:MAX_WORDS_CHARS]}\n")


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Whatever error leaves the context has its withheld words written to `folder`."""
    try:
        yield
    except BaseException as error:
        keep(error, folder)
        raise


def place(path: str) -> str | None:
    """`path` relative to this installation, where it is a Python file of it: so it says nothing but where it is."""
    file = PurePosixPath(path)
    if file.suffix != ".py" or ".." in file.parts:
        return None
    for root in _roots():
        if file.is_relative_to(root) and Path(file).is_file():
            return str(file.relative_to(root.parent if root.name in ("appliance", "attest") else root))
    return None


def _roots() -> tuple[PurePosixPath, ...]:
    project = PurePosixPath(appliance.__path__[0]).parent
    installed = [PurePosixPath(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib")]
    return (project / "appliance", project / "attest", *installed)


def _shape(text: str) -> str | None:
    """What of a line is out of the vocabulary."""
    if _TRACEBACK.match(text):
        return text
    if frame := _FRAME.match(text):
        return f"  File {place(frame[1]) or '(elsewhere)'}, line {frame[2]}"
    if engine := _ENGINE.search(text):
        return f"{engine[1]}:{engine[2]}: GGML_{engine[3]} {WITHHELD}"
    if (error := _ERROR.match(text)) and _class(error[1]):
        return f"{error[1]}: {WITHHELD}"
    return None


def _class(name: str) -> str | None:
    """`name`, if it is a class of errors that may be named."""
    known = getattr(builtins, name, None) if name.isidentifier() else None
    if name in _OURS or (isinstance(known, type) and issubclass(known, BaseException)):
        return name
    return None
