"""Drift in tables that a user owns: rows in time order in, findings and alarms out."""
