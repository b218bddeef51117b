"""Transport: listeners and connections, before a request exists."""
