"""Connections, before a request exists."""
