"""`attest`, and `python -m attest`, which is the same."""

from __future__ import annotations

import gc


def main() -> None:
    """Entry point of the console script."""
    # What a command imports and reads stays until it ends, and has no cycles: looking for them takes a tenth of the
    # time.
    gc.disable()
    from attest.cli import run

    run()


if __name__ == "__main__":
    main()
