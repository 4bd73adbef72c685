"""Figures of all tables. Imports the rest of analysis."""
