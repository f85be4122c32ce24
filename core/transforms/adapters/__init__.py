"""LoRA adapters, as PEFT stores them: merged into weights one tensor at a time, or run beside them on any backend.

``adapter_config.py`` has what adapter_config.json says, ``adapter_tensors.py`` the tensors, ``adapt_graph.py`` the way
from a plain graph to an adapted one, ``adapt_weights.py`` the same for tensors. The node of an adapted layer is in
``core/graph/adapted.py``. Begin with ``adapt_graph.py``.

Source: Hu et al. 2021, "LoRA" (arXiv:2106.09685); Kalajdzievski 2023 for rsLoRA (arXiv:2312.03732); Liu et al. 2024 for
DoRA (arXiv:2402.09353); the file format is PEFT's.
"""
