"""Prompts, facts and texts: what is asked, where its subject stands, and files of both. Imports runs and errors."""
