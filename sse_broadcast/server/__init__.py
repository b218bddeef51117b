"""The HTTP server: a file per endpoint, and the only package that knows aiohttp's server."""
