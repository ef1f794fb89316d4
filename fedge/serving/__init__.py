"""Inference on a gateway: the worker process, its HTTP protocol, and the observation ring."""
