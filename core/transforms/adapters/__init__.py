"""LoRA adapters, as PEFT stores them: merged into weights one tensor at a time, or run beside them on any backend.

``settings.py`` has what adapter_config.json says, ``files.py`` the tensors, ``transform.py`` the way from a plain graph
to an adapted one, ``weights.py`` the same for tensors. The node of an adapted layer is in ``core/graph/adapted.py``.
Begin with ``transform.py``.

Source: Hu et al. 2021, "LoRA" (arXiv:2106.09685); Kalajdzievski 2023 for rsLoRA (arXiv:2312.03732); Liu et al. 2024 for
DoRA (arXiv:2402.09353); the file format is PEFT's.
"""
