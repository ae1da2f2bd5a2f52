"""Recipes: their rules, and that the project's own recipe names every distribution that the code imports."""

from __future__ import annotations

import ast
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

from appliance.image import lock, recipe
from appliance.image.recipe import Package, Rule, Selection, pattern
from appliance.image.wheels import normal
from attest.errors import MalformedInput, VerificationError, VitrineError
from tests.conftest import ROOT
from tests.tools.image_layouts import small_recipe

RECIPE = ROOT / "images" / "cpu.toml"


@pytest.mark.parametrize(
    ("glob", "path", "fits"),
    [
        ("a/*.py", "a/b.py", True),
        ("a/*.py", "a/b/c.py", False),
        ("a/**.py", "a/b/c.py", True),
        ("a/**", "a/b/c", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("a.b", "axb", False),
        ("lib+.so", "lib+.so", True),
        ("*.dist-info/RECORD", "x-1.dist-info/RECORD", True),
    ],
)
def test_globs(glob: str, path: str, *, fits: bool) -> None:
    assert bool(pattern(glob).fullmatch(path)) is fits


def test_a_file_is_kept_by_one_rule_and_dropped_by_another() -> None:
    keep = (Rule(path="a/**", why="kept"), Rule(path="b", why="amd64", only="amd64"))
    drop = (Rule(path="a/tests/**", why="tests"),)
    chosen = Selection("p", "package", keep, drop, on="arm64")
    assert chosen.reason("a/x") == "kept"
    assert chosen.reason("a/tests/x") is None
    assert chosen.reason("b") is None
    chosen.finish()
    everything = Selection("p", "package", (), (), on="arm64")
    assert everything.reason("anything") == "package"


def test_a_rule_that_fits_nothing_is_a_mistake() -> None:
    chosen = Selection("p", "package", (Rule(path="a", why="a"), Rule(path="misspelt", why="b")), (), on="amd64")
    chosen.reason("a")
    with pytest.raises(MalformedInput, match="misspelt"):
        chosen.finish()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"layers": ["base", "base", "top"]}, "each layer once"),
        ({"optional": ["other"]}, "expected layers out of"),
        ({"pinned": ["top"]}, "packages only"),
        ({"user": 0}, "user"),
        ({"unknown": 1}, "unknown"),
        ({"debian": [{"name": "a", "layer": "base", "reason": "r"}] * 2}, "each Debian package once"),
        ({"entrypoint": []}, "entrypoint"),
    ],
)
def test_recipes_that_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(MalformedInput, match=words):
        small_recipe(**fields)


def test_a_recipe_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(MalformedInput, match="found none"):
        recipe.load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = ")
    with pytest.raises(MalformedInput, match="image recipe"):
        recipe.load(tmp_path / "bad.toml")


def test_a_lock_is_of_one_recipe(tmp_path: Path) -> None:
    one, other = small_recipe(), small_recipe(epoch=5)
    made = lock.ImageLock(recipe_digest=one.digest(), architectures={})
    path = tmp_path / "small.lock.json"
    path.write_bytes(lock.write(made))
    assert lock.read(path, one) == made
    with pytest.raises(VerificationError, match="image/recipe"):
        lock.read(path, other)
    with pytest.raises(MalformedInput, match="appliance image lock"):
        lock.read(tmp_path / "none.lock.json", one)
    path.write_text("{")
    with pytest.raises(VitrineError):
        lock.read(path, one)


def test_the_projects_lock_is_of_its_recipe_and_names_no_host() -> None:
    made = recipe.load(RECIPE)
    path = lock.path_of(RECIPE)
    locked = lock.read(path, made)
    assert not re.search(r"https?:|//", path.read_text())
    for architecture in made.architectures:
        part = locked.of(architecture)
        named = {("deb", package.name) for package in made.debian}
        named |= {("sdist" if package.source else "wheel", package.name) for package in made.python.packages}
        assert {(item.kind, item.name) for item in part.files} == named
        assert [layer.name for layer in part.layers] == list(made.pinned)


def test_every_distribution_that_the_code_names_is_in_the_recipe_or_left_out_with_a_reason() -> None:
    found = imported(ROOT / "appliance") | imported(ROOT / "attest")
    providers = metadata.packages_distributions()
    distributions = {normal(providers[name][0]) for name in found if name in providers}
    assert {"numpy", "pydantic", "cryptography", "sigstore"} <= distributions  # the scan sees lazy imports, too
    listed = listed_distributions()
    assert distributions - {"vitrine", "setuptools", "pip"} <= listed, "name it in images/cpu.toml"


def test_what_the_distributions_need_is_in_the_recipe_or_left_out_with_a_reason() -> None:
    listed = listed_distributions()
    for package in packages():
        for requirement in metadata.requires(package.name) or []:
            name, _, marker = requirement.partition(";")
            # Extras, other systems and other Pythons do not count here.
            if re.search(r"extra|Windows|python_version <|python_full_version <", marker):
                continue
            needed = normal(re.split(r"[\s<>=!~(\[]", name.strip())[0])
            assert needed in listed, f"{package.name} needs {needed}: name it in images/cpu.toml"


def packages() -> tuple[Package, ...]:
    """The distributions in the image."""
    return recipe.load(RECIPE).python.packages


def listed_distributions() -> set[str]:
    """Those in the image, and those left out."""
    return {package.name for package in packages()} | {item.name for item in recipe.load(RECIPE).python.left_out}


def imported(folder: Path) -> set[str]:
    """The top names of all imports below a folder, lazy ones included, without the standard library."""
    names = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names)
