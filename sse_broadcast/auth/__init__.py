"""Who may do what: credentials, and what they grant."""
