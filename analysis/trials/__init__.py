"""Editors compared on the same facts: plans, trials, tables. Imports evaluation and editing."""
