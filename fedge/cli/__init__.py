"""The command line: one thin file per command group; all work is done elsewhere."""
