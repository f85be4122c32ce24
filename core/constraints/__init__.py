"""Text that must follow a JSON schema, a regular expression, a grammar or a list of choices.

What is asked for is read here (``asked.py``), compiled by a plugin for a tokenizer's vocabulary (``compiling.py``) and
applied to logits by generation. ``protocol.py`` is what a plugin has to be.
"""
