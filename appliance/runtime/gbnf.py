"""Reads a GBNF grammar into rules over bytes, and refuses what would hurt later, with `GrammarError`.

GBNF is llama.cpp's notation: `root ::= "yes" | "no" [.!]{0,3}`. Its own parser and matcher abort the process on some
texts and take exponential time on others, so neither ever sees one; `appliance.runtime.grammar` matches. Characters
become their UTF-8 bytes here, because a token may hold a part of one.

Refused: more than `MAX_CHARS`, deeper groups than `MAX_DEPTH`, more than `MAX_SYMBOLS` after repetitions are written
out, unknown, repeated and left-recursive rules, a grammar that no text satisfies, and references to tokens (`<[7]>`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

MAX_CHARS = 1 << 16
MAX_DEPTH = 48
MAX_REPETITIONS = 10_000
MAX_SYMBOLS = 50_000
ROOT = "root"

ByteRange = tuple[int, int]
"""The first and the last of the bytes that may stand here."""
Symbol = int | ByteRange
"""A rule by its number, or one byte."""
Sequence = tuple[Symbol, ...]
Rules = list[list[Sequence]]
"""A rule's alternatives, by the rule's number."""

NAME = re.compile(r"[A-Za-z0-9-]+")
SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
LINE_END = re.compile(r"\r\n?|\n|\Z")
COUNTS = re.compile(r"\{[ \t]*([0-9]{1,9})[ \t]*(?:(,)[ \t]*([0-9]{1,9})?[ \t]*)?\}")
ESCAPES = {"t": "\t", "r": "\r", "n": "\n", **{char: char for char in '\\"[]-'}}
HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
LAST_CHAR = 0x10FFFF
SURROGATES = (0xD800, 0xDFFF)
LAST_OF_LENGTH = (0x7F, 0x7FF, 0xFFFF)


class GrammarError(ValueError):
    """The grammar cannot be used, or allows nothing at this point of a text."""


@dataclass(frozen=True)
class Grammar:
    """Rules without left recursion, all of them defined; some text satisfies `root`."""

    rules: Rules
    """Alternatives by rule number."""
    root: int
    """The number of the rule that a text has to satisfy."""


def parse(text: str) -> Grammar:
    """The grammar in `text`. Raises `GrammarError` that says where, what was expected and what was found."""
    if len(text) > MAX_CHARS:
        raise GrammarError(f"expected a grammar of at most {MAX_CHARS} characters, found {len(text)}")
    parser = _Parser(text)
    parser.read()
    if ROOT not in parser.names:
        raise GrammarError(f"expected a rule {ROOT!r}, found {sorted(parser.names)[:8]}")
    root = parser.names[ROOT]
    empty = _satisfied(parser.rules, lambda _byte: False)
    if root not in _satisfied(parser.rules, lambda _byte: True):
        raise GrammarError("expected a grammar that some text satisfies, found one whose rules never end")
    _refuse_left_recursion(parser.rules, empty, parser.loops, {number: name for name, number in parser.names.items()})
    return Grammar(parser.rules, root)


class _Parser:
    """Recursive descent over `text`; `rules` grows on the way."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.rules: Rules = []
        self.names: dict[str, int] = {}
        self.loops: set[int] = set()
        """Rules that were made of `*` and `+`: S ::= item S | nothing."""
        self._defined: set[int] = set()
        self._classes: dict[tuple[ByteRange, ...], Symbol] = {}
        self._symbols = 0

    def read(self) -> None:
        """All rules. Raises `GrammarError`."""
        self._skip(SPACE_AND_LINES)
        while self.at < len(self.text):
            number = self._rule_named(self._match(NAME, "a rule's name"))
            if number in self._defined:
                raise self._error("a rule that is not defined yet")
            self._defined.add(number)
            self._skip(SPACE)
            if not self.text.startswith("::=", self.at):
                raise self._error("'::='")
            self.at += 3
            self._skip(SPACE_AND_LINES)
            self.rules[number] = self._alternatives(0)
            self._match(LINE_END, "the end of the line")
            self._skip(SPACE_AND_LINES)
        if missing := sorted(name for name, number in self.names.items() if number not in self._defined):
            raise GrammarError(f"expected every rule to be defined, found no definition of {missing[:8]}")

    def _alternatives(self, depth: int) -> list[Sequence]:
        if depth > MAX_DEPTH:
            raise GrammarError(f"expected groups at most {MAX_DEPTH} deep, found deeper ones")
        found = [self._sequence(depth)]
        while self.text.startswith("|", self.at):
            self.at += 1
            self._skip(SPACE_AND_LINES)
            found.append(self._sequence(depth))
        return found

    def _sequence(self, depth: int) -> Sequence:
        space = SPACE_AND_LINES if depth else SPACE
        found: list[Symbol] = []
        while (item := self._item(depth)) is not None:
            self._skip(space)
            while (counts := self._counts()) is not None:
                item = self._repeated(item, *counts)
                self._skip(space)
            found += item
            self._count(len(item))
        return tuple(found)

    def _item(self, depth: int) -> Sequence | None:
        """The next item as symbols, or None at the end of a sequence."""
        char = self.text[self.at : self.at + 1]
        if char == '"':
            self.at += 1
            chars = "".join(map(chr, self._until('"')))
            try:
                return tuple((byte, byte) for byte in chars.encode())
            except UnicodeEncodeError:
                raise self._error("text that UTF-8 can carry") from None
        if char == "[":
            return (self._class(),)
        if char == ".":
            self.at += 1
            return (self._any_of([(0, LAST_CHAR)]),)
        if char == "(":
            self.at += 1
            self._skip(SPACE_AND_LINES)
            number = self._new_rule()
            self.rules[number] = self._alternatives(depth + 1)
            if not self.text.startswith(")", self.at):
                raise self._error("')'")
            self.at += 1
            return (number,)
        if char in ("<", "!") and char:
            raise self._error("text: tokens cannot be named here")
        name = NAME.match(self.text, self.at)
        if name is None:
            return None
        self.at = name.end()
        return (self._rule_named(name.group()),)

    def _counts(self) -> tuple[int, int | None] | None:
        """The repetition that stands here: least and most, None for any number."""
        char = self.text[self.at : self.at + 1]
        if char and char in "*+?":
            self.at += 1
            return (int(char == "+"), 1 if char == "?" else None)
        if char != "{":
            return None
        counts = self._match(COUNTS, "a repetition {m}, {m,} or {m,n}")
        least, comma, most = COUNTS.fullmatch(counts).groups()  # type: ignore[union-attr]
        top = int(most) if most else None if comma else int(least)
        if max(int(least), top or 0) > MAX_REPETITIONS or (top is not None and top < int(least)):
            raise GrammarError(f"expected a repetition within {MAX_REPETITIONS}, least first, found {counts}")
        return int(least), top

    def _repeated(self, item: Sequence, least: int, most: int | None) -> Sequence:
        """`least` times the item, then a rule for the rest."""
        if len(item) > 1:
            item = (self._new_rule([item]),)
        symbols = list(item * least)
        if most is None:
            loop = self._new_rule()
            self.rules[loop] = [(*item, loop), ()]
            self.loops.add(loop)
            symbols.append(loop)
        else:
            rest: Sequence = ()
            for _ in range(most - least):
                rest = (self._new_rule([(*item, *rest), ()]),)
            symbols += rest
        self._count(least)
        return tuple(symbols)

    def _class(self) -> Symbol:
        self.at += 1
        negated = self.text.startswith("^", self.at)
        self.at += negated
        ranges: list[ByteRange] = []
        for first in self._until("]"):
            last = first
            if self.text.startswith("-", self.at) and not self.text.startswith("-]", self.at):
                self.at += 1
                last = self._char()
            if last < first:
                raise self._error(f"a range that goes up from {chr(first)!r}")
            ranges.append((first, last))
        if not ranges:
            raise self._error("a class of at least one character")
        return self._any_of(_complement(ranges) if negated else ranges)

    def _any_of(self, ranges: list[tuple[int, int]]) -> Symbol:
        """One symbol for any character in `ranges`."""
        sequences = [sequence for first, last in _merged(ranges) for sequence in _utf8(first, last)]
        key = tuple(part for sequence in sequences for part in (*sequence, (-1, -1)))
        if key not in self._classes:
            plain = len(sequences) == 1 and len(sequences[0]) == 1
            self._classes[key] = sequences[0][0] if plain else self._new_rule([tuple(item) for item in sequences])
        return self._classes[key]

    def _until(self, end: str) -> Iterator[int]:
        """Code points up to the character `end`, which is passed over."""
        while not self.text.startswith(end, self.at):
            yield self._char()
        self.at += 1

    def _char(self) -> int:
        if self.at >= len(self.text):
            raise self._error("the end of a literal")
        char = self.text[self.at]
        self.at += 1
        if char != "\\":
            return ord(char)
        kind = self.text[self.at : self.at + 1]
        self.at += 1
        if kind in ESCAPES:
            return ord(ESCAPES[kind])
        digits = self.text[self.at : self.at + HEX_DIGITS.get(kind, 0)]
        if not digits or not re.fullmatch(rf"[0-9A-Fa-f]{{{HEX_DIGITS[kind]}}}", digits):
            self.at -= 2
            raise self._error('an escape: \\t \\r \\n \\\\ \\" \\[ \\] \\- \\xHH \\uHHHH \\UHHHHHHHH')
        self.at += len(digits)
        if int(digits, 16) > LAST_CHAR:
            raise self._error("a code point of Unicode")
        return int(digits, 16)

    def _rule_named(self, name: str) -> int:
        if name not in self.names:
            self.names[name] = self._new_rule()
        return self.names[name]

    def _new_rule(self, alternatives: list[Sequence] | None = None) -> int:
        self.rules.append(alternatives or [])
        self._count(1 + sum(len(item) for item in alternatives or ()))
        return len(self.rules) - 1

    def _count(self, symbols: int) -> None:
        self._symbols += symbols
        if self._symbols > MAX_SYMBOLS:
            raise GrammarError(f"expected at most {MAX_SYMBOLS} symbols with repetitions written out, found more")

    def _match(self, pattern: re.Pattern[str], what: str) -> str:
        found = pattern.match(self.text, self.at)
        if found is None:
            raise self._error(what)
        self.at = found.end()
        return found.group()

    def _skip(self, pattern: re.Pattern[str]) -> None:
        self._match(pattern, "space")

    def _error(self, expected: str) -> GrammarError:
        line = self.text.count("\n", 0, self.at) + 1
        return GrammarError(f"line {line}: expected {expected}, found {self.text[self.at : self.at + 30]!r}")


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Disjoint ranges in order, without the surrogates, which no UTF-8 text holds."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    below = [(first, min(last, SURROGATES[0] - 1)) for first, last in merged if first < SURROGATES[0]]
    return below + [(max(first, SURROGATES[1] + 1), last) for first, last in merged if last > SURROGATES[1]]


def _complement(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    found, start = [], 0
    for first, last in _merged([*ranges, SURROGATES]):
        if start < first:
            found.append((start, first - 1))
        start = last + 1
    return [*found, (start, LAST_CHAR)] if start <= LAST_CHAR else found


def _utf8(first: int, last: int) -> Iterator[list[ByteRange]]:
    """The characters from `first` to `last` as sequences of byte ranges."""
    for end in LAST_OF_LENGTH:
        if first <= end < last:
            yield from _utf8(first, end)
            yield from _utf8(end + 1, last)
            return
    for low_bits in (0x3F, 0xFFF, 0x3FFFF):
        if first <= 0x7F or first | low_bits == last | low_bits:
            break
        if first & low_bits:
            yield from _utf8(first, first | low_bits)
            yield from _utf8((first | low_bits) + 1, last)
            return
        if last & low_bits != low_bits:
            yield from _utf8(first, (last & ~low_bits) - 1)
            yield from _utf8(last & ~low_bits, last)
            return
    yield list(zip(chr(first).encode(), chr(last).encode(), strict=True))


def _satisfied(rules: Rules, byte: Callable[[ByteRange], bool]) -> set[int]:
    """The rules with an alternative whose symbols are all satisfied; `byte` says it of a byte. Linear time."""
    users: dict[int, list[tuple[int, int]]] = {}
    waiting: dict[tuple[int, int], int] = {}
    found: set[int] = set()
    todo: list[int] = []
    for number, alternatives in enumerate(rules):
        for place, sequence in enumerate(alternatives):
            needed = [symbol for symbol in sequence if isinstance(symbol, int)]
            if all(byte(symbol) for symbol in sequence if not isinstance(symbol, int)):
                waiting[number, place] = len(needed)
                todo += [number] * (not needed)
                for symbol in needed:
                    users.setdefault(symbol, []).append((number, place))
    while todo:
        number = todo.pop()
        if number in found:
            continue
        found.add(number)
        for user in users.get(number, ()):
            waiting[user] -= 1
            todo += [user[0]] * (not waiting[user])
    return found


def _refuse_left_recursion(rules: Rules, empty: set[int], loops: set[int], names: dict[int, str]) -> None:
    """Refuse a rule that can come to itself again before any byte. A loop's own return is harmless: it adds nothing."""
    first: list[set[int]] = []
    for number, alternatives in enumerate(rules):
        reached: set[int] = set()
        for sequence in alternatives:
            for symbol in sequence:
                if not isinstance(symbol, int):
                    break
                if not (number in loops and symbol == number):
                    reached.add(symbol)
                if symbol not in empty:
                    break
        first.append(reached)
    done: set[int] = set()
    for start in range(len(rules)):
        path, open_rules = [(start, iter(first[start]))], {start}
        while path and start not in done:
            number, following = path[-1]
            step = next((item for item in following if item not in done), None)
            if step is None:
                done.add(number)
                open_rules.discard(number)
                path.pop()
            elif step in open_rules:
                named = [names[item] for item, _ in path if item in names]
                raise GrammarError(f"expected no left recursion, found it in rule {named[-1] if named else ROOT!r}")
            else:
                open_rules.add(step)
                path.append((step, iter(first[step])))
