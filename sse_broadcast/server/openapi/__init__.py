"""The OpenAPI document, a file per group of operations."""
