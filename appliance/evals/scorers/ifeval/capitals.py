"""Counts words in capital letters as the authors do, whose words are nltk's Treebank tokens."""

from __future__ import annotations

import re

APART = re.compile(
    r"""[\s;@#$%&?!*()\[\]{}<>"\u00ab\u00bb\u2018\u2019\u201c\u201d\u201e`\u2012-\u2015]+"""
    r"""|[:,](?!\d)|\.{2,}|--|''"""
)
"""What stands between tokens or is one itself, without a letter."""
CLITIC = re.compile(r"(?i)(?:'s|'m|'d|'ll|'re|'ve|n't)$")
"""Endings that are tokens of their own: WE'LL is two."""
TWO = frozenset({"CANNOT", "GIMME", "GONNA", "GOTTA", "LEMME", "WANNA"})
"""Words that are two tokens."""


def count_capitals(text: str) -> int:
    """The number of words in `text` with upper-case letters only; a word with a hyphen is one."""
    count = 0
    for word in APART.split(text):
        ending = CLITIC.search(word)
        stem = word[: ending.start()] if ending else word
        count += stem.isupper() + (stem in TWO) + bool(ending and stem and ending[0].isupper())
    return count
