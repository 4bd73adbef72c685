"""The command line: `mechinterp demo | trace | edit | evaluate | moments | facts | show`."""

from .main import main as main
