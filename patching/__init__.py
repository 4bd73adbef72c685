"""Say where to intervene in a model and with what, and compute what it does."""
