"""Doctor: find what stands between a server and its subscribers, and say how to mend it."""
