"""Loads llama-cpp-python's low-level binding onto the engine library that was hashed.

The library comes as an open descriptor of sealed memory, so what runs is what was measured, whatever happens to the
file. Only the ctypes declarations (`llama_cpp.llama_cpp`) are imported; the package's high-level modules, with their
chat formats, caches and servers, never enter the worker.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from attest.errors import EnvironmentProblem

NAME = "llama_cpp.llama_cpp"
WARNING, ERROR = 3, 4  # ggml.h, enum ggml_log_level
_CALLBACKS: list[Any] = []
"""Kept for as long as the library may call it."""


@functools.cache
def declarations() -> tuple[importlib.machinery.ModuleSpec, CodeType]:
    """Where the declarations are, and their code, compiled; they run once there is a library.

    Raises `EnvironmentProblem` when llama-cpp-python is not installed.
    """
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.submodule_search_locations is None:
        raise EnvironmentProblem("llama-cpp-python is not installed: pip install 'vitrine[llama]'")
    package = ModuleType("llama_cpp")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["llama_cpp"] = package
    spec = importlib.util.find_spec(NAME)
    if spec is None or not isinstance(spec.loader, importlib.abc.InspectLoader):
        raise EnvironmentProblem(f"llama-cpp-python: expected the code of {NAME}, found none: install it again")
    code = spec.loader.get_code(NAME)
    assert code is not None  # it is no extension module
    return spec, code


def load(library_fd: int) -> Any:
    """The binding's module over the library behind `library_fd`. Once a process; before the seal."""
    spec, code = declarations()
    library = sys.modules[NAME] = importlib.util.module_from_spec(spec)
    with tempfile.TemporaryDirectory(prefix="vitrine-") as folder:
        # The binding wants a folder with a file of this name; the link leads into sealed memory.
        (Path(folder) / "libllama.so").symlink_to(f"/proc/self/fd/{library_fd}")
        os.environ["LLAMA_CPP_LIB_PATH"] = folder
        try:
            exec(code, library.__dict__)  # noqa: S102 - as the import system does it
        finally:
            del os.environ["LLAMA_CPP_LIB_PATH"]
    library.llama_log_set(_log_warnings(library), ctypes.c_void_p(0))
    return library


def _log_warnings(library: Any) -> Any:
    """A callback that passes warnings and errors on to standard error, and drops the rest."""
    if not _CALLBACKS:

        @library.llama_log_callback  # type: ignore[untyped-decorator]
        def callback(level: int, text: bytes, _data: object) -> None:
            if WARNING <= level <= ERROR:
                sys.stderr.write(text.decode("utf-8", "replace"))

        _CALLBACKS.append(callback)
    return _CALLBACKS[0]
