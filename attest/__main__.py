"""`python -m attest`: the same as the console script."""

from attest.cli import main

main()
