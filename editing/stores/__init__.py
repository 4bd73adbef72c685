"""Memories outside the model: what is kept, how it is found again, and the words it is put into. Imports models."""
