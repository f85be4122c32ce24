"""Modules by the paths that the reference documentation imports them from; each hands over a public class.

The classes themselves are in ``core/``, and ``from polyllama import ...`` has them too.
"""
