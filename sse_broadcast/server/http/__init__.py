"""HTTP: requests and responses, without sockets and state."""
