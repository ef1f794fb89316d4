"""Policies, charges, grants and noise: everything that bounds what leaves a gateway."""
