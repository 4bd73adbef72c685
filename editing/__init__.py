"""Change what a model knows by changing its weights: rank-one edits as values."""
