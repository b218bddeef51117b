"""Where publications are kept: the contract, and a file per kind of backend."""
