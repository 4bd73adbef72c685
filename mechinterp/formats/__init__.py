"""Files of facts in every shape they are published in, one reader each. Imports facts, runs and errors."""
