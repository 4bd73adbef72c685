"""The same numbers in growing forwards, a column of the grid at a time. Imports plain and the algebra."""
