"""The way of a publication to the sinks of its subscribers."""
