"""Logs: what a line looks like, who writes it, and how many of a kind there may be."""
