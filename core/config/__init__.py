"""The configuration of a model: its schema, the dialects it is read from, and its checks."""
