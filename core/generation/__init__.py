"""Generating text, on any backend: prefill, decode, stop; whole or as a stream.

There is one loop, :class:`~polyllama.core.generation.loop.GenerationRun`, which yields an event per token;
``generate`` in ``calls.py`` drains it and ``TextStream`` there shows its text. One pass of the model is in
``core/forward/``; chat templates are in ``core/tokenizer/chat/``. Begin with ``calls.py``, then ``loop.py``.

Prompts of unequal length are padded on the left, and
the attention mask says so, so each row gets what it would get alone. Sampling does not depend on how rows are batched
either: a row's noise is keyed by its index in the request (prompt index * num_return_sequences + i). So ``["a", "b"]``
with a seed gives "a" the tokens that ``["a"]`` gives it, while "b", being row 1 there, draws other tokens than alone.
"""
