"""An edit as a value: requests, changes of a model, their application, undoing and files. Imports patching."""
