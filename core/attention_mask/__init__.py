"""Which token may look at which: the masks of a model as text, SVG, PNG and plain data."""
