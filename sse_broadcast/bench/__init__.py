"""Bench: open-loop load through real sockets, against this server or any other that speaks SSE."""
