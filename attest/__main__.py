"""`attest`, and `python -m attest`, which is the same."""

from __future__ import annotations

import gc
import os


def main() -> None:
    """Entry point of the console script."""
    # A package that happens to be installed may bring a plugin of pydantic's. None has a say in what is read here.
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
    # What a command imports and reads stays until it ends, and has no cycles: looking for them takes a fifth of the
    # time, at its end above all.
    gc.disable()
    from attest.cli import run

    try:
        run()
    finally:
        gc.freeze()


if __name__ == "__main__":
    main()
