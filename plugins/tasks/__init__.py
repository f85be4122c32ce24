"""Built-in task heads, one file each.

What a head is stands in ``core/tasks/task.py``. Begin with ``causal_lm.py``.
"""
