"""The graph spec, config, checkpoints, tokenizers and generation: everything that knows no framework."""
