"""The checks, each by the identifier that rows use, as in `instructions.py` of the authors' repository.

https://github.com/google-research/google-research/tree/master/instruction_following_eval. Expressions that take more
than linear time on some text are replaced by what finds the same without; keywords are texts, not expressions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from string import ascii_lowercase

from appliance.evals.scorers.ifeval.arguments import Arguments, UnfitError
from appliance.evals.scorers.ifeval.capitals import count_capitals
from appliance.evals.scorers.ifeval.sentences import count_sentences

Check = Callable[[str, Arguments], bool]
OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
DRAWN = "z"
"""Where a row asks for a character that is no letter (two do), the authors' code looks for a letter that it draws at
random each time. Here the draw is fixed, and gives their published verdicts."""
POSTSCRIPTS = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}


def follows(instruction: str, reply: str, arguments: Arguments) -> bool:
    """Whether `reply` follows the instruction. Raises `UnfitError` for one that does not exist or lacks arguments."""
    check = CHECKS.get(instruction)
    if check is None:
        raise UnfitError(f"no instruction is called {instruction!r:.80}")
    return check(reply, arguments)


def _keywords(reply: str, arguments: Arguments) -> bool:
    return all(re.search(re.escape(word), reply, re.IGNORECASE) for word in arguments.texts("keywords"))


def _keyword_frequency(reply: str, arguments: Arguments) -> bool:
    keyword = re.escape(arguments.text("keyword").strip())
    found = sum(1 for _ in re.finditer(keyword, reply, re.IGNORECASE))
    return arguments.compare(found, "relation", "frequency")


def _forbidden_words(reply: str, arguments: Arguments) -> bool:
    words = arguments.texts("forbidden_words")
    return not any(re.search(rf"\b{re.escape(word)}\b", reply, re.IGNORECASE) for word in words)


def _letter_frequency(reply: str, arguments: Arguments) -> bool:
    letter = arguments.text("letter").strip().lower()
    if letter not in ascii_lowercase:
        letter = DRAWN
    return arguments.compare(reply.lower().count(letter), "let_relation", "let_frequency")


def _language(reply: str, arguments: Arguments) -> bool:
    # What has nothing to tell a language by counts as following, here and below.
    return _detected(reply) in (arguments.text("language"), None)


def _sentences(reply: str, arguments: Arguments) -> bool:
    return arguments.compare(count_sentences(reply), "relation", "num_sentences")


def _words(reply: str, arguments: Arguments) -> bool:
    return arguments.compare(sum(1 for _ in re.finditer(r"\w+", reply)), "relation", "num_words")


def _paragraphs(reply: str, arguments: Arguments) -> bool:
    parts = re.split(r"\s?\*\*\*\s?", reply)
    if not all(part.strip() for part in parts[1:-1]):
        return False
    return sum(bool(part.strip()) for part in parts) == arguments.count("num_paragraphs")


def _first_word(reply: str, arguments: Arguments) -> bool:
    parts = reply.split("\n\n")
    count, nth = sum(bool(part.strip()) for part in parts), arguments.count("nth_paragraph")
    if not 1 <= nth <= count or not parts[nth - 1].strip():
        return False
    word = parts[nth - 1].split()[0].lstrip("'").lstrip('"')
    first = re.split(r"[.,?!'\"]", word)[0].lower()
    return count == arguments.count("num_paragraphs") and first == arguments.text("first_word").lower()


def _placeholders(reply: str, arguments: Arguments) -> bool:
    found = 0
    for line in reply.split("\n"):
        end = -1
        while (start := line.find("[", end + 1)) >= 0 and (end := line.find("]", start)) >= 0:
            found += 1
    return found >= arguments.count("num_placeholders")


def _postscript(reply: str, arguments: Arguments) -> bool:
    marker = arguments.text("postscript_marker").strip()
    return re.search(POSTSCRIPTS.get(marker, re.escape(marker.lower())), reply.lower()) is not None


def _bullets(reply: str, arguments: Arguments) -> bool:
    lines = [line.lstrip() for line in reply.split("\n")]
    found = sum(line.startswith("-") for line in lines)
    taken = False
    for number, line in enumerate(lines):
        if not taken and line == "*" and number + 1 < len(lines):
            found, taken = found + 1, True  # a star alone takes the next line for its text
        else:
            found += not taken and line.startswith("*") and line[1:2] not in ("", "*")
            taken = False
    return found == arguments.count("num_bullets")


def _options(reply: str, _arguments: Arguments) -> bool:
    return any(option in reply for option in OPTIONS)


def _highlights(reply: str, arguments: Arguments) -> bool:
    single = (match.strip("*") for match in re.findall(r"\*[^\n*]*\*", reply))
    double = (match[2:-2] for match in re.findall(r"\*\*[^\n*]*\*\*", reply))
    found = sum(bool(text.strip()) for texts in (single, double) for text in texts)
    return found >= arguments.count("num_highlights")


def _sections(reply: str, arguments: Arguments) -> bool:
    splitter = re.escape(arguments.text("section_spliter").strip())
    return len(re.findall(rf"{splitter}\s?\d+", reply)) >= arguments.count("num_sections")


def _json(reply: str, _arguments: Arguments) -> bool:
    text = reply.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(reply: str, _arguments: Arguments) -> bool:
    for line in reply.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if 0 <= start < end - 2 and line[start:end].strip("<> \t"):
            return True
    return False


def _two_responses(reply: str, _arguments: Arguments) -> bool:
    parts = [part.strip() for part in reply.split("******")]
    given = [part for part in parts if part]
    return all(parts[1:-1]) and len(given) == 2 and given[0] != given[1]


def _repeat_prompt(reply: str, arguments: Arguments) -> bool:
    return reply.strip().lower().startswith(arguments.text("prompt_to_repeat").strip().lower())


def _end(reply: str, arguments: Arguments) -> bool:
    return reply.strip().strip('"').lower().endswith(arguments.text("end_phrase").strip().lower())


def _quotation(reply: str, _arguments: Arguments) -> bool:
    text = reply.strip()
    return len(text) > 1 and text[0] == '"' == text[-1]


def _capital_words(reply: str, arguments: Arguments) -> bool:
    return arguments.compare(count_capitals(reply), "capital_relation", "capital_frequency")


def _capitals(reply: str, _arguments: Arguments) -> bool:
    return reply.isupper() and _detected(reply) in ("en", None)


def _lowercase(reply: str, _arguments: Arguments) -> bool:
    return reply.islower() and _detected(reply) in ("en", None)


def _no_comma(reply: str, _arguments: Arguments) -> bool:
    return "," not in reply


def _detected(reply: str) -> str | None:
    from appliance.evals.scorers.ifeval.language import detect  # the profiles of 55 languages take a while to read

    return detect(reply)


CHECKS: dict[str, Check] = {
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _capitals,
    "change_case:english_lowercase": _lowercase,
    "combination:repeat_prompt": _repeat_prompt,
    "combination:two_responses": _two_responses,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:constrained_response": _options,
    "detectable_format:json_format": _json,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:title": _title,
    "keywords:existence": _keywords,
    "keywords:forbidden_words": _forbidden_words,
    "keywords:frequency": _keyword_frequency,
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": _language,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_words": _words,
    "punctuation:no_comma": _no_comma,
    "startend:end_checker": _end,
    "startend:quotation": _quotation,
}
"""Every instruction of the data set."""
