"""Grids over many prompts: planned, priced, run, resumed and kept as a table. Imports all of patching."""
