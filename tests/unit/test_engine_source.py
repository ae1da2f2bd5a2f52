"""The source of the engine: what is refused before anything of it is unpacked, patched or run."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import pytest

from appliance.engine import build as engine
from appliance.engine import recipe as recipes
from appliance.engine import source as sources
from appliance.engine.recipe import EngineRecipe
from appliance.engine.tools import Tools
from attest.digest import digest_of
from attest.errors import EnvironmentProblem, MalformedInput, VerificationError
from tests.tools.small_engine import BINDINGS, ROOT, TOP, archive, quiet, reference


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    """A link as a tar member."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.fixture
def recipe() -> EngineRecipe:
    """The reference recipe of this release."""
    return reference()


class TestSource:
    def test_size_and_digest(self, recipe: EngineRecipe, tmp_path: Path) -> None:
        data = archive()
        pinned = recipe.source.model_copy(update={"digest": digest_of(data), "size_bytes": len(data)})
        path = tmp_path / "source.tar.gz"
        path.write_bytes(data)
        assert sources.read_source(path, pinned) == data
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(VerificationError, match="source-digest"):
            sources.read_source(path, pinned)
        path.write_bytes(data + b"x")
        with pytest.raises(VerificationError, match=f"source-size.*{len(data)} bytes.*{len(data) + 1} bytes"):
            sources.read_source(path, pinned)
        with pytest.raises(EnvironmentProblem, match="cannot read"):
            sources.read_source(tmp_path / "absent", pinned)

    def test_wrong_source_is_refused_before_anything_is_unpacked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def never(*_: object) -> None:
            raise AssertionError("unpacked or fetched")

        monkeypatch.setattr(engine, "find_tools", lambda recipe, target: ("x86_64", Tools(*["/bin/false"] * 7, None)))
        monkeypatch.setattr(engine, "unpack", never)
        monkeypatch.setattr(engine, "fetch", never)
        wrong = tmp_path / "llama_cpp_python-0.3.36.tar.gz"
        wrong.write_bytes(archive())
        out = tmp_path / "engine" / "reference"
        with pytest.raises(VerificationError, match="source-size"):
            engine.build(recipes.recipe_path("reference"), out, source=wrong, jobs=1, progress=quiet)
        assert not out.exists()
        assert [path.name for path in out.parent.iterdir()] == [".reference.lock"]

    def test_cached_source_is_not_downloaded_again(self, recipe: EngineRecipe, tmp_path: Path) -> None:
        (tmp_path / recipe.source.filename).write_bytes(b"")
        assert sources.fetch(recipe.source, tmp_path, quiet) == tmp_path / recipe.source.filename

    def test_failed_download_says_where_to_put_the_file(
        self, recipe: EngineRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sources.sys, "executable", "/bin/false")
        with pytest.raises(EnvironmentProblem, match=f"put it at {tmp_path}.*{recipe.source.digest}"):
            sources.fetch(recipe.source, tmp_path / "cache", quiet)
        assert list((tmp_path / "cache").iterdir()) == []


class TestUnpack:
    def test_takes_the_sources_and_the_bindings(self, recipe: EngineRecipe, tmp_path: Path) -> None:
        sources.unpack(archive((f"{TOP}/docs/x.md", b"x")), recipe.source, tmp_path / "into")
        files = sorted(str(p.relative_to(tmp_path / "into")) for p in (tmp_path / "into").rglob("*") if p.is_file())
        assert files == [BINDINGS, f"{ROOT}/CMakeLists.txt"]

    @pytest.mark.parametrize(
        "member",
        [
            ("../escaped", b"x"),
            (f"{ROOT}/../../../../escaped", b"x"),
            ("/escaped", b"x"),
            ("another-top/escaped", b"x"),
            (f"{ROOT}/./here", b"x"),
            link(f"{ROOT}/symbolic", "../../../escaped"),
            link(f"{ROOT}/inside", "CMakeLists.txt"),
            link(f"{ROOT}/hard", f"{ROOT}/CMakeLists.txt", tarfile.LNKTYPE),
            link(f"{ROOT}/fifo", "", tarfile.FIFOTYPE),
            link(f"{TOP}/unneeded-link", "/etc/passwd"),
        ],
        ids=lambda member: member.name if isinstance(member, tarfile.TarInfo) else member[0],
    )
    def test_refuses(self, recipe: EngineRecipe, tmp_path: Path, member: tuple[str, bytes] | tarfile.TarInfo) -> None:
        with pytest.raises(VerificationError, match="source-member"):
            sources.unpack(archive(member), recipe.source, tmp_path / "into")
        assert {path.name for path in tmp_path.iterdir()} == {"into"}

    @pytest.mark.parametrize("data", [b"", b"plain text", gzip.compress(b"no tar at all"), archive()[:-30]])
    def test_malformed(self, recipe: EngineRecipe, tmp_path: Path, data: bytes) -> None:
        with pytest.raises(MalformedInput):
            sources.unpack(data, recipe.source, tmp_path / "into")

    def test_incomplete(self, recipe: EngineRecipe, tmp_path: Path) -> None:
        elsewhere = recipe.source.model_copy(update={"bindings": f"{TOP}/absent.py"})
        with pytest.raises(MalformedInput, match=r"absent\.py"):
            sources.unpack(archive(), elsewhere, tmp_path / "into")


OLD = b"one\ntwo\nthree\nfour\nfive\nsix\nseven\n"
PATCH = b"""Why: a test.

--- a/src/file.txt
+++ b/src/file.txt
@@ -1,3 +1,3 @@
 one
-two
+TWO
 three
@@ -6,2 +6,3 @@ a function
 six
+six and a half
 seven
"""


class TestPatch:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        (tmp_path / "tree" / "src").mkdir(parents=True)
        (tmp_path / "tree" / "src" / "file.txt").write_bytes(OLD)
        (tmp_path / "outside.txt").write_bytes(OLD)
        return tmp_path / "tree"

    def test_applies(self, tree: Path) -> None:
        sources.apply_patch(tree, PATCH, "a patch")
        expected = OLD.replace(b"two", b"TWO").replace(b"six\n", b"six\nsix and a half\n")
        assert (tree / "src" / "file.txt").read_bytes() == expected

    @pytest.mark.parametrize(
        ("old", "new", "error", "code"),
        [
            (b" one\n", b" uno\n", VerificationError, "patch-context"),
            (b"@@ -1,3 +1,3", b"@@ -2,3 +2,3", VerificationError, "patch-context"),
            (b" seven\n", b" eight\n", VerificationError, "patch-context"),
            (b"/src/file.txt", b"/src/absent.txt", VerificationError, "patch-file"),
            (b"/src/file.txt", b"/../outside.txt", VerificationError, "patch-file"),
            (b"+++ b/src/file.txt", b"+++ b/src/other.txt", MalformedInput, "one and the same"),
            (b"--- a/src/file.txt", b"--- /dev/null", MalformedInput, "one and the same"),
            (b"@@ -1,3 +1,3", b"@@ -1,4 +1,3", MalformedInput, "line of the hunk"),
            (b"@@ -6,2 +6,3", b"@@ -6,2 +5,3", MalformedInput, "line numbers"),
            (b"@@ -6,2 +6,3", b"@@ -2,2 +2,3", MalformedInput, "line numbers"),
            (b"@@ -6,2 +6,3 @@ a function\n", b"", MalformedInput, "expected a hunk"),
            (b"--- a/src/file.txt\n", b"", MalformedInput, "no `---` line"),
        ],
    )
    def test_refuses(self, tree: Path, old: bytes, new: bytes, error: type[Exception], code: str) -> None:
        with pytest.raises(error, match=code):
            sources.apply_patch(tree, PATCH.replace(old, new), "a patch")
        assert (tree.parent / "outside.txt").read_bytes() == OLD
        assert (tree / "src" / "file.txt").read_bytes() == OLD

    def test_pinned_digest(self, recipe: EngineRecipe, tmp_path: Path) -> None:
        pinned = recipe.patches[0]
        changed = tmp_path / pinned.file
        changed.parent.mkdir()
        changed.write_bytes((recipes.recipe_path("reference").parent / pinned.file).read_bytes() + b"\n")
        with pytest.raises(VerificationError, match="patch-digest"):
            sources.read_patch(tmp_path, pinned)
        with pytest.raises(MalformedInput, match="cannot read its patch"):
            sources.read_patch(tmp_path / "elsewhere", pinned)
