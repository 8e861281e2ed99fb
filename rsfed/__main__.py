"""`python -m rsfed` is the command `rsfed`."""

from rsfed.cli import main

main()
