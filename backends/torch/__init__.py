"""The torch backend: an ``nn.Module`` whose ``state_dict`` is the checkpoint. Begin with ``backend.py``."""
