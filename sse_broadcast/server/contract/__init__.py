"""The contract: what each endpoint takes and answers, in the words of OpenAPI 3.1."""
