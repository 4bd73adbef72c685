"""Networks that make edits, and how they are trained. Imports rows, gradients and edits."""
