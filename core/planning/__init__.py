"""What a model takes, and what fits, worked out before anything is loaded.

``plan`` finds the source's shapes and asks a backend; ``memory`` is what backends answer with; a ghost is an array
without contents, on which passes run only to see what they would hold.
"""
