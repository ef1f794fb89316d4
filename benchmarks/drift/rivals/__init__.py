"""Other detectors, each fed the same streams and asked for scores."""
