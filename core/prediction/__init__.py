"""From texts to results that a person reads: rows encoded, run in batches and handed to the task.

What a task makes of its outputs is in ``core/tasks/`` and ``plugins/tasks/``. Begin with ``predict.py``.
"""
