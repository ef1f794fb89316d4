"""The area `drift`: verdicts one can act on, beside those of others."""
