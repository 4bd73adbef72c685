"""Whether an edit did what was asked, and what it cost. Imports value, rows, memory, moments and edits."""
