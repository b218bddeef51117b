"""A file per endpoint, and what reads its requests."""
