"""Task heads: what a head is, its losses, outputs, and how a person reads them.

The built-in heads are in ``plugins/tasks/``; running one over texts is in ``core/prediction/``. Begin with
``task.py``.
"""
