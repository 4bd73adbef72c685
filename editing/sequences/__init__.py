"""Edits after edits: one by one, or many each alone. Imports the editors."""
