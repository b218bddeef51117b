"""Authentication: credentials, and the actions that they grant."""
