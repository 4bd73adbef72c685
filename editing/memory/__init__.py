"""The linear associative memory: one solver for every closed-form editor. Imports edits and moments."""
