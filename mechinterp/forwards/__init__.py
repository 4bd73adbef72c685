"""What is left out of a forward, and what is read at its end.  Asks models and facts; knows no patch and no edit."""
