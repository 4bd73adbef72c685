"""v*: the value that makes a model say a target. Imports rows and gradients."""
