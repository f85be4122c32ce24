"""What ``polyllama serve`` runs: a hub of models behind HTTP interfaces, which are plugins.

The command itself is ``plugins/commands/serve.py``. Begin with ``server.py``: it starts an engine (``engine.py``, the
one thread that runs models), a hub (``hub.py``, which model is loaded) and the application (``app.py``,
``answering.py``: requests in, answers out). ``openai/`` and ``own/`` are interfaces.
"""
