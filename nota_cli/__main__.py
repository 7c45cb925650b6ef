"""`python -m nota_cli` is `nota`."""

from nota_cli.cli import main

if __name__ == "__main__":  # worker processes import this file, and must not start over
    main()
