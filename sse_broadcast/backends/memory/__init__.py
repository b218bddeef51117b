"""History in memory."""
