"""Endpoints: a file per endpoint, and the parsers of its requests."""
