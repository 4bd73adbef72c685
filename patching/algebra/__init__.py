"""The words of an experiment: positions, sites, sources, programs. Runs nothing; imports models and below."""
