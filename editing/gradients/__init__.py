"""Gradients of an editor's loss and what descends on them. Imports rows and edits."""
