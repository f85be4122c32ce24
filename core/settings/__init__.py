"""Settings: their schema, and the files and variables they come from."""
