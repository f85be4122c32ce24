"""Meta's originals: params.json beside consolidated.NN.pth, read and written.

What params.json means is in ``core/config/meta.py``, the files of torch in ``core/checkpoint/pytorch/``. Begin with
``reader.py``.
"""
