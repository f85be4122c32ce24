"""What polyllama ships as plugins, registered exactly as third parties register theirs.

How plugins are found is in ``core/plugin_system/``. Begin with ``builtin.py``, which lists them all.
"""
