"""The local fast path: change detectors and OOD scores that a gateway runs for its own operator.

Nothing in here is private: what it finds is computed from records without noise. It
stays on the gateway.
"""
