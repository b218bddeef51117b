"""Measurements of the running server: `python -m benchmarks.compare`, `.frozen` and `.churn`."""
