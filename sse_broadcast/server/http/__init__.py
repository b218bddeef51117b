"""Requests and responses: no sockets, no state."""
