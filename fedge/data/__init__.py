"""Data on disk: a gateway's own records in blocks, and tables that a user brings."""
