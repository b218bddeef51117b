"""The OpenAPI document: a file for each group of operations."""
