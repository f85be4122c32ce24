"""From a model to files: saving, converting between formats, quantizing a checkpoint."""
