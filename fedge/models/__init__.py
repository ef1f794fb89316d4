"""From weights to a candidate: export, quantize, measure, and the gates."""
