"""Transforms of a graph and its weights: quantizing, another vocabulary, fewer key/value heads, adapters."""
