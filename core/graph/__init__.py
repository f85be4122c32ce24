"""The spec: nodes that say what they compute, and the graph of a configuration."""
