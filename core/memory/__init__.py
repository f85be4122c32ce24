"""How much memory a pass takes, worked out on arrays that have a shape and no contents ("ghosts").

Whether that fits a machine, and what would, is in ``core/planning/``. Begin with ``estimate.py``.
"""
