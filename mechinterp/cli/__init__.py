"""The command line: `mechinterp demo | trace | edit | moments | facts | show`."""

from .main import main as main
