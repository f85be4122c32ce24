"""What a model takes, and what fits, worked out before anything is loaded.

How much memory a pass takes is worked out in ``core/memory/``; here that is held against what a machine has. Begin with
``plan.py``: ``facts.py`` finds the shapes of a source, ``planner.py`` asks the backends, ``advice.py`` says what would
fit instead, ``result.py`` is what a user gets.
"""
