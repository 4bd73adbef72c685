"""The second moment C = E[k kT] of an MLP's keys: collected, kept, judged. Imports models and runs."""
