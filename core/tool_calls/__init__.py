"""Calls of tools in generated text: what one is, how a format's parser looks, which one a chat template asks for.

The formats themselves are plugins (``plugins/tool_parsers/``).
"""
