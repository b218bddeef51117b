"""Settings: what they are, where they come from, and which hold for a channel."""
