"""Entry point of the console script `appliance`, and of `python -m appliance`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or say which extra is not installed."""
    if sys.argv[1:2] == ["inside"]:
        # The entry point of the image: it says hello before anything that takes time is imported.
        from appliance.enclave import inside

        sys.exit(inside.main(sys.argv[2:]))
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
