"""What is left out of a forward, and what is read at its end. Imports models, facts and errors."""
