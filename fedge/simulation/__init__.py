"""A fleet in one process, with a virtual clock: the same agent, courier and ServerApp code."""
