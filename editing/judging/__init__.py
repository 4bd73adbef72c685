"""Whether an edit did what was asked, and what it cost. Imports rows, edits and moments."""
