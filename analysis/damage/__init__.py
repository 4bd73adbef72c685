"""What else an edit may touch: forecast before, difference after. Imports evaluation and editing."""
