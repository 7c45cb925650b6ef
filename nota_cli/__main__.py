"""`python -m nota_cli` is `nota`."""

from nota_cli.cli import main

main()
