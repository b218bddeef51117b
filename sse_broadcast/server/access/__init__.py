"""Access: authorization, rate limits and shares."""
