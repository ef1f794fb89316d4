"""The demonstration: a whole fleet and its centre on loopback, played from real glyphs.

A composition root like the command line: it starts the real processes, plays
the streams that it owns, and measures what came out. Nothing imports it.
"""
