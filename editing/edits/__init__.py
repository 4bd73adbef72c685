"""An edit as a value: requests, kinds of change, how they act, undoing, files. Imports models and below."""
