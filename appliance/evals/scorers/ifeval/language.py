"""The language of a text, by langdetect as the authors use it, but with a seed and its profiles in a fixed order.

langdetect draws at random and adds up probabilities in the order in which a folder lists its files: as it comes, it
answers differently from call to call, and may from machine to machine.
"""

from __future__ import annotations

import functools
from pathlib import Path

from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory
from langdetect.lang_detect_exception import LangDetectException

SEED = 0


def detect(text: str) -> str | None:
    """The ISO 639-1 code of the language; None when the text has nothing to tell it by."""
    detector = _factory().create()
    detector.append(text)
    try:
        return str(detector.detect())
    except LangDetectException:
        return None


@functools.cache
def _factory() -> DetectorFactory:
    factory = DetectorFactory()
    factory.set_seed(SEED)
    factory.load_json_profile([path.read_text("utf-8") for path in sorted(Path(PROFILES_DIRECTORY).iterdir())])
    return factory
