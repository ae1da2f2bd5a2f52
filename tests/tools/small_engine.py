"""A source distribution that is small and otherwise like the engine's, and the recipe that builds it in seconds."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from appliance.engine import recipe as recipes
from appliance.engine.recipe import EngineRecipe
from attest.digest import digest_of

TOP = "llama_cpp_python-0.3.36"
ROOT = f"{TOP}/vendor/llama.cpp"
BINDINGS = f"{TOP}/llama_cpp/llama_cpp.py"
NAMES = '@ctypes_function("llama_decode", [], None)\n@ctypes_function(\n    "ggml_commit", [], None)\n'


def quiet(text: str, fraction: float | None) -> None:
    """A progress callback that shows nothing."""


def archive(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    """A tar.gz with the engine's two wanted paths, then `members`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member in [(f"{ROOT}/CMakeLists.txt", b"project()\n"), (BINDINGS, b"x = 1\n"), *members]:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


SMALL = {
    "CMakeLists.txt": """
        cmake_minimum_required(VERSION 3.14)
        project(small C CXX)
        option(GGML_NATIVE "" ON)
        add_compile_definitions(COMMIT="${LLAMA_BUILD_COMMIT}")
        if (SMALL_PATH)
            add_compile_definitions(WHERE="${CMAKE_BINARY_DIR}")
        endif()
        add_subdirectory(ggml/src)
        add_subdirectory(src)
    """,
    "ggml/src/CMakeLists.txt": """
        add_library(ggml-base STATIC base.c)
        add_library(ggml-cpu STATIC cpu.c)
        add_library(ggml STATIC ggml.c)
        target_link_libraries(ggml ggml-cpu ggml-base)
    """,
    "ggml/src/base.c": """
        #ifndef WHERE
        #define WHERE __FILE__
        #endif
        const char * ggml_where(void) { return WHERE; }
        const char * ggml_commit(void) { return COMMIT; }
    """,
    "ggml/src/cpu.c": "#include <math.h>\nfloat ggml_exp(float x) { return expf(x); }",
    "ggml/src/ggml.c": "void ggml_backend_load(void) {}",
    "src/CMakeLists.txt": "add_library(llama STATIC llama.cpp)\ntarget_link_libraries(llama ggml)",
    "src/llama.cpp": """#include <string>
#define KERNELS "many"
extern "C" const char * llama_print_system_info(void) {
    static const std::string text = std::string("CPU : KERNELS = ") + KERNELS + " | ";
    return text.c_str();
}
extern "C" void llama_decode(void) {}
""",
}
SMALL_PATCH = b"""--- a/src/llama.cpp
+++ b/src/llama.cpp
@@ -1,3 +1,3 @@
 #include <string>
-#define KERNELS "many"
+#define KERNELS "one"
 extern "C" const char * llama_print_system_info(void) {
"""


def write_small(folder: Path, recipe: EngineRecipe, **changes: Any) -> tuple[Path, Path]:
    """A recipe file in `folder` with `changes` to its fields, flags as in `recipe`, and its source distribution."""
    data = archive(*[(f"{ROOT}/{name}", text.encode()) for name, text in SMALL.items()], (BINDINGS, NAMES.encode()))
    source = folder / "small.tar.gz"
    source.write_bytes(data)
    (folder / "small.patch").write_bytes(SMALL_PATCH)
    fields: dict[str, Any] = {
        "format": "vitrine/engine-recipe/v1",
        "name": "small",
        "profile": "small",
        "architecture": "x86_64",
        "instructions": [],
        "patches": [{"file": "small.patch", "digest": digest_of(SMALL_PATCH)}],
        "definitions": {"GGML_NATIVE": "OFF", "LLAMA_BUILD_COMMIT": "0c1e57098", "CMAKE_BUILD_TYPE": "Release"},
        "compile": {"flags": ["-fPIC"]},
        "link": {**recipe.link.model_dump(mode="json"), "hidden": ["ggml_backend_load"]},
        "environment": {},
        "source": {
            "name": "small",
            "version": "1",
            "filename": "small.tar.gz",
            "digest": digest_of(data),
            "size_bytes": len(data),
            "root": ROOT,
            "bindings": BINDINGS,
            "upstream_commit": "0c1e57098",
        },
    }
    path = folder / "small.toml"
    path.write_text(toml(fields | changes), "utf-8")
    return path, source


def toml(fields: dict[str, Any]) -> str:
    """The fields as TOML, one inline value each."""
    return "".join(f"{name} = {_inline(value)}\n" for name, value in fields.items())


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_inline(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_inline(each) for each in value) + "]"
    return json.dumps(value)


def reference() -> EngineRecipe:
    """The reference recipe of this release."""
    return recipes.load_recipe(recipes.recipe_path("reference"))
