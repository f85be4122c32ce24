"""Where models come from: names of the registry, local folders, the Hub.

It ends with a folder on this machine; reading that is in ``core/checkpoint/``. Begin with ``locate.py``.
"""
