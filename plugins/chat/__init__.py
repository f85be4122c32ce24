"""What ``polyllama chat`` runs: the conversation, its commands, the editor of its terminal.

The command itself is ``plugins/commands/chat.py``. Begin with ``session.py``.
"""
