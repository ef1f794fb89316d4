"""Windows, counts on frozen bins, sketches and the report's wire form: how a stream is profiled."""
