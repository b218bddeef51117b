"""Configuration: the settings, their sources, and the policy of each channel."""
