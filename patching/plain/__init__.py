"""Programs run by hooks, one full forward per job: what everything faster is held to. Imports the algebra."""
