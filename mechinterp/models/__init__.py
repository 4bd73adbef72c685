"""A model ready for patching: weights, bridge, layout, proofs. Imports facts, runs, atlas and errors."""
