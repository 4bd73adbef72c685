"""What a trace says: effects per prompt, averages with intervals, what to doubt. Imports patching."""
