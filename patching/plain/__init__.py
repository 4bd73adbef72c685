"""Programs run by hooks, one full forward per job: the reference for everything faster. Imports the algebra."""
