"""Grids over many prompts: planned, priced, run, resumed, kept as a table. Imports the rest of patching."""
