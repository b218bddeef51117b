"""Fan-out: from one publication to the sinks of its subscribers."""
