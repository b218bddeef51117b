"""Logs: formatting, writing and rate-limiting of log lines."""
