"""The editors, a file each, and the protocol they share. Imports everything else in editing but sequences."""
