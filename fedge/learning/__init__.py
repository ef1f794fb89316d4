"""Adapters, local training under differential privacy, and adding up updates."""
