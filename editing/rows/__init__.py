"""Facts as rows of tokens: contexts, subjects, targets, completions. Imports edits and patching."""
