"""Measurements: each area prints ours, the peer's and the ratio, and keeps them as JSON."""
