"""Drift in a fleet: from stored window reports to verdicts, episodes and actions.

Reads released statistics only. Everything here is pure: the same stored facts give the
same answer, bit for bit.
"""
