"""Grammars: what is read, what is refused before it can hurt, and that masks say what the grammar says."""

from __future__ import annotations

import random
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.runtime import grammar
from appliance.runtime.gbnf import GrammarError
from appliance.runtime.grammar import Constraint, Grammars, Pieces
from tests.tools.toy_grammar import END, LOGITS, PIECES, TEXTS, accepts, allowed, constraint


@pytest.mark.parametrize(
    ("text", "regex"),
    [
        ('root ::= "ab"', "ab"),
        ('root ::= "a" | "b" "c"', "a|bc"),
        ("root ::= [a-c]+", "[a-c]+"),
        ("root ::= [^a-y]*", "[^a-y]*"),
        ('root ::= ("a" | "b"){2,3}', "[ab]{2,3}"),
        ('root ::= "ab"{2}', "abab"),
        ('root ::= "a"{1,} "b"?', "a+b?"),
        ('root ::= ("a"?)*', "a*"),
        ('root ::= ("a"? "b"?)* "c"', "[ab]*c"),
        ('root ::= x x\nx ::= "a" | "" # twice', "a?a?"),
        ('root ::= (\n "a" |\n "b"\n)', "a|b"),
        ('root ::= "a" |\n  "b"', "a|b"),
        (r'root ::= "\x61\u0062\U00000063"', "abc"),
        (r'root ::= [\]\-\\"] "\"" ', r'[\]\-\\"]"'),
        ("root ::= [a-]", "[a-]"),
        ("root ::= .", "."),
        ("root ::= [é日-本] | [\U0001f600]", "[é日-本\U0001f600]"),
        ("root ::= [^é]", "[^é]"),
        ('a ::= "b"\r\nroot ::= a "c"', "bc"),
        ('root ::= "a" root | ""', "a*"),
    ],
)
def test_a_grammar_says_what_its_expression_says(text: str, regex: str) -> None:
    chars = ["a", "b", "c", "z", '"', "-", "]", "\\", "é", "日", "本", "木", "\U0001f600"]
    source = random.Random(text)
    said = ["", *chars, "ab", "abc", "bc", "abab", "aab", "aa", "aaa", "abb", "bb", 'x"', '-"', '\\"', "acb"]
    said += ["".join(source.choices(chars[:3], k=source.randint(0, 6))) for _ in range(60)]
    for word in said:
        assert accepts(text, word) == bool(re.fullmatch(regex, word, re.DOTALL)), word


def test_nesting_that_no_expression_has() -> None:
    text = 'root ::= "(" root ")" | "" '
    assert [accepts(text, word) for word in ("", "()", "(())", "(()", "())", ")(")] == [True, True, True] + [False] * 3


def test_masks_hold_whole_tokens_and_the_end() -> None:
    state = constraint('root ::= "ab" [a-c]?')
    assert allowed(state) == {b"a", b"ab"} | {b"abc"}
    state.accept(TEXTS.index(b"ab"))
    assert allowed(state) == {b"a", b"b", b"c", None}
    state.accept(TEXTS.index(b"a"))
    assert allowed(state) == {None}


def test_a_token_may_hold_a_part_of_a_character() -> None:
    state = constraint("root ::= [é日]")
    assert allowed(state) == {"é".encode(), b"\xc3", b"\xe6"}
    state.accept(TEXTS.index(b"\xe6"))
    assert allowed(state) == {b"\x97"}


def test_only_what_is_permitted_is_accepted() -> None:
    state = constraint('root ::= "a"')
    for token in (TEXTS.index(b"b"), END):
        with pytest.raises(GrammarError, match="allows"):
            state.accept(token)
    state.accept(TEXTS.index(b"a"))
    with pytest.raises(GrammarError):
        state.accept(TEXTS.index(b"a"))


def test_a_text_that_no_token_goes_on_with() -> None:
    few = Pieces.of([b"", b"a"], np.array([True, False]))
    state = Grammars(few).constraint('root ::= "a" "b"')
    state.accept(1)
    with pytest.raises(GrammarError, match="no token"):
        state.mask(np.zeros(2, np.float32))


def test_generations_are_independent_of_each_other_and_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tokens give the same masks alone, beside others, and when the tables are emptied all the time."""
    text = 'root ::= ("a" | "b" root "c"){0,3} [x-z]*'
    source = random.Random(1)

    def walk(state: Constraint, choices: list[float]) -> list[list[bool]]:
        masks = []
        for choice in choices:
            mask = np.isfinite(state.mask(LOGITS))
            masks.append(mask.tolist())
            mask[END] = False
            if mask.any():
                state.accept(int(np.flatnonzero(mask)[int(choice * mask.sum())]))
        return masks

    paths = [[source.random() for _ in range(12)] for _ in range(6)]
    alone = [walk(constraint(text), path) for path in paths]
    shared = Grammars(PIECES)
    together = [shared.constraint(text) for _ in paths]
    beside: list[list[list[bool]]] = [[] for _ in paths]
    monkeypatch.setattr(grammar, "CACHED_SETS", 2)
    for step in range(12):
        for number in source.sample(range(6), 6):
            beside[number] += walk(together[number], [paths[number][step]])
    assert beside == alone


def test_text_nested_beyond_the_limit_is_not_in_the_language() -> None:
    text = 'root ::= "(" root ")" | ""'
    state, opened = constraint(text), TEXTS.index(b"(")
    depth = 0
    while state.permits(opened):
        state.accept(opened)
        depth += 1
    assert depth == grammar.MAX_NESTING
    assert allowed(state) == {b")"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "rule 'root'"),
        ('a ::= "b"', "rule 'root'"),
        ("root ::= x y", r"no definition of \['x', 'y'\]"),
        ('root ::= "a"\nroot ::= "b"', "line 2: expected a rule that is not defined yet"),
        ('root ::= root "a" | "b"', "left recursion.*'root'"),
        ('root ::= a\na ::= b "x" | "y"\nb ::= a', "left recursion"),
        ('root ::= e root "x" | "y"\ne ::= f\nf ::= ""', "left recursion"),
        ('root ::= "a" root', "never end"),
        ("root ::= root", "never end"),
        ("root = x", "'::='"),
        ('root ::= "a', "end of a literal"),
        ("root ::= [a", "end of a literal"),
        ("root ::= []", "at least one character"),
        ("root ::= [^]", "at least one character"),
        ("root ::= [z-a]", "goes up"),
        ('root ::= ("a"', r"'\)'"),
        ('root ::= "a")', "end of the line"),
        ("root ::= *", "end of the line"),
        (r'root ::= "\q"', "an escape"),
        (r'root ::= "\x1"', "an escape"),
        (r'root ::= "\U00110000"', "code point"),
        (r'root ::= "\ud800"', "UTF-8"),
        ('root ::= "\ud800"', "UTF-8"),
        ("root ::= [\ud800]", "satisfies"),
        ("root ::= <[7]>", "tokens cannot be named"),
        ("root ::= !<end>", "tokens cannot be named"),
        ('root ::= "a"{3,2}', "least first"),
        ('root ::= "a"{10001}', "within 10000"),
        ('root ::= "a"{99999999999}', "repetition"),
        ('root ::= "a"{,3}', "repetition"),
        ("root ::= " + "(" * 60_000, "48 deep"),
        ("root ::= " + '"a" ' * 20_000, "at most 65536"),
        ('root ::= "' + "a" * 60_000 + '"', "50000 symbols"),
        ('root ::= (("a"{0,9000}){0,9000}){0,9000}', "50000 symbols"),
        ("root ::= [\x00", "end of a literal"),
        ("}{", "a rule's name"),
    ],
)
def test_what_cannot_be_read(text: str, problem: str) -> None:
    with pytest.raises(GrammarError, match=problem):
        constraint(text)


HOSTILE = {
    "maybe a thousand times": 'root ::= ("a"?){1000}',
    "maybe often": 'root ::= ("a"?){400} "b"',
    "two ways": 'root ::= ("a" | "a")* "b"',
    "loops of loops": 'root ::= ((("a"*)*)*)* "b"',
    "stacks that double": 'root ::= "a" root "b" | "a" root "c" | ""',
    "every split": 'root ::= "a" | "a" root root',
    "many counters": "root ::= s s s s s s s s\ns ::= [a-c]{0,100}",
    "a long count": "root ::= [^z]{9000}",
    "subsets": 'root ::= [abc]* "a" [abc]{40} "!"',
    "wide": "root ::= "
    + " | ".join(f'"a" r{n}' for n in range(400))
    + "".join(f"\nr{n} ::= [a-z]" for n in range(400)),
    "deep chain": "root ::= r0" + "".join(f"\nr{n} ::= r{n + 1}" for n in range(3000)) + '\nr3000 ::= "x"',
    "doubling chain": "root ::= r0"
    + "".join(f'\nr{n} ::= r{n + 1} | r{n + 1} "y"' for n in range(1000))
    + '\nr1000 ::= "x"',
    "nested chain": "root ::= r0" + "".join(f'\nr{n} ::= r{n + 1} "y"' for n in range(1000)) + '\nr1000 ::= "x"',
}
RUN = """
import json, resource, sys
import numpy as np
from appliance.runtime.grammar import GrammarError, Grammars, Pieces
words = [b"", *(bytes([byte]) for byte in range(256)), *(b"a" * n for n in range(2, 64))]
words += [bytes(np.random.default_rng(n).integers(97, 100, 6).tolist()) for n in range(3000)]
grammars = Grammars(Pieces.of(words, np.arange(len(words)) == 0))
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (256 << 20),) * 2)
try:
    state = grammars.constraint(sys.stdin.read())
    for turn in range(60):
        open_ = np.flatnonzero(np.isfinite(state.mask(np.zeros(len(words), np.float32))))[1 if state.permits(0) else 0:]
        if not len(open_):
            break
        state.accept(int(open_[0 if turn % 2 else -1]))
    print("ran")
except GrammarError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_grammar_ends_soon(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", RUN], input=HOSTILE[name], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.startswith(("ran", "refused: "))


@given(st.text('"[]()|*+?{}0123,.:=\\^-\n <!#axroot', max_size=40))
def test_any_text_is_a_grammar_or_its_error(text: str) -> None:
    for source in (text, f"root ::= {text}"):
        try:
            state = constraint(source)
            state.mask(LOGITS)
        except GrammarError as error:
            assert str(error)
