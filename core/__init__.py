"""The floors that know no framework: the graph spec, config, checkpoints, tokenizers, generation and all between them.

Importing any of it loads neither torch, MLX nor JAX. A folder is a room and imports only from rooms on floors below;
docs/architecture.md lists the floors. Begin with ``graph/nodes.py`` for what a Llama computes, with ``loading/load.py``
for how one is loaded.
"""
