"""`python -m appliance`: the same as the console script."""

from appliance.cli import main

main()
