"""Turn runs and edits into tables, intervals, figures and evaluations."""
