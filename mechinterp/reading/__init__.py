"""Facts and texts by a name or a path: the one place that knows bundled names. Imports atlas and facts."""
