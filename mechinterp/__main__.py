"""`python -m mechinterp`: the command line."""

from .cli import main

main()
