"""Data on disk: a gateway's own records in blocks, who they are about, and users' tables."""
