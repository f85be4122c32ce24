"""From a text to a result a person reads: encode, run in batches, and let the task say what its output means."""
