"""One screen a file, each with its own layout sheet."""
