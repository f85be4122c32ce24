"""Checkpoints: opening, checking against a graph, reading lazily, and saving.

    checkpoint = open_checkpoint(path)                        # headers only
    weight_map = check(checkpoint, graph.parameters(), config=config)   # or one error that lists everything wrong
    weights = weights_from(checkpoint, graph.parameters(), weight_map)  # name -> array, mapped when asked for
    save_safetensors(folder, weights)

Nothing here ever unpickles, and importing it loads no NumPy.
"""
