"""``pipeline``: a model and a task under one call, by the names and with the results that transformers documents.

Begin with ``making.py``; what a pipeline is called with and gives is in ``base.py`` and, by task, in the others.
"""
