"""Version of the package. In a file of its own, so that no module imports the whole package for it."""

__version__ = "0.1.0"
