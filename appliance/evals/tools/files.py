"""`files`: a folder of texts that stands in the suite, to list, read and search. No file of the machine is opened."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints

from appliance.evals.tools.tool import (
    EMPTY,
    Arguments,
    Function,
    ToolError,
    ToolSpec,
    World,
    arguments,
    nothing,
)
from attest.canonical import Model

PathName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+){0,8}$", max_length=200)]
MAX_LINES = 50
"""Of a search's result."""


class Files(ToolSpec):
    """Its settings."""

    tool: Literal["files"]
    """Which tool."""
    files: dict[PathName, Annotated[str, Field(max_length=20_000)]] = Field(min_length=1, max_length=200)
    """Path to content."""

    def functions(self) -> tuple[Function, ...]:
        """List, read, search."""
        return (
            Function("list_files", "Lists the paths of all files.", EMPTY, self._list),
            Function("read_file", "Reads one file.", PATH_SCHEMA, self._read),
            Function("search_files", "Lists the lines that hold a text, in any case.", TEXT_SCHEMA, self._search),
        )

    def _list(self, given: Arguments, _world: World) -> str:
        nothing(given)
        return "\n".join(sorted(self.files))

    def _read(self, given: Arguments, _world: World) -> str:
        path = arguments(Path, given).path
        if path not in self.files:
            raise ToolError("no such file")
        return self.files[path]

    def _search(self, given: Arguments, _world: World) -> str:
        text = arguments(Text, given).text.lower()
        found = [
            f"{path}:{number}: {line}"
            for path, content in sorted(self.files.items())
            for number, line in enumerate(content.split("\n"), 1)
            if text in line.lower()
        ]
        rest = [f"and {len(found) - MAX_LINES} more"] if len(found) > MAX_LINES else []
        return "\n".join([*found[:MAX_LINES], *rest]) or "nothing found"


class Path(Model):
    """The arguments of `read_file`."""

    path: str
    """One of the listed paths."""


class Text(Model):
    """The arguments of `search_files`."""

    text: str = Field(min_length=1, max_length=200)
    """What is looked for."""


PATH_SCHEMA: Final = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
TEXT_SCHEMA: Final = {
    "type": "object",
    "properties": {"text": {"type": "string", "minLength": 1, "maxLength": 200}},
    "required": ["text"],
}
