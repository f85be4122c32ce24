"""The command line: what every command shares, from options to tables.

The commands are plugins in ``plugins/commands/``. Begin with ``main.py``.
"""
