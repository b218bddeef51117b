"""One open stream: its head, its sink, and when it ends."""
