"""What any long job stands on: files, hashes, progress, ranks, identities. Imports errors alone."""
