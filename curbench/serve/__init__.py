"""One curator behind HTTP, for trainers in other processes or languages; what it acknowledged survives a kill."""
