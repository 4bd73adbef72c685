"""The editors, a file each, and the protocol they share. Imports all of editing but sequences."""
