"""The HTTP server. Only this package uses aiohttp's server."""
