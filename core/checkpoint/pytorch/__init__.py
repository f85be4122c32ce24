"""Files of ``torch.save``, read without running a pickle; nothing here imports torch.

They are no format of their own: the readers of Hugging Face's and Meta's folders open them. Begin with
``torch_file.py``.
"""
