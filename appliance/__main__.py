"""Entry point of the console script `appliance`, and of `python -m appliance`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or say which extra is not installed."""
    try:
        from appliance import cli
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("appliance", "attest"):
            raise
        sys.stderr.write(
            f"ERROR: running evals needs {error.name}, which is not installed here: "
            "CMAKE_ARGS=-DLLAMA_BUILD=OFF pip install 'vitrine[llama]'\n"
        )
        sys.exit(1)
    cli.main()


if __name__ == "__main__":
    main()
