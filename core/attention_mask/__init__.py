"""Pictures of attention masks: which token attends to which, as text, SVG, PNG and plain data.

The masks themselves are computed in ``core/forward/``, where every pass gets its own. Begin with ``build.py``, then
``picture.py``.
"""
