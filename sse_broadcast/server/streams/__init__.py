"""Open streams: their heads, their sinks, their registry and their expiry."""
