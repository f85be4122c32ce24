"""Files of ``torch.save``, read without running a pickle."""
