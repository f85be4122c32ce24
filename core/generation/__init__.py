"""Generating text, on any backend: prefill, decode, stop; whole or as a stream.

There is one loop, :class:`~polyllama.core.generation.scheduler.Scheduler`, whose steps run the rows of all requests
(``batch.py``); a request is a :class:`~polyllama.core.generation.job.Job` there. ``request.py`` checks prompts and
options and makes rows of them (``sequence.py``), :class:`~polyllama.core.generation.loop.GenerationRun` hands them to a
scheduler; ``generate`` in ``calls.py`` drains it and ``TextStream`` there shows its text; ``arrays.py`` makes an array
of it, as transformers documents ``generate``. Options come from the call, a ``GenerationConfig`` that is given, and the
model's own (``arguments.py``, ``config.py``, ``defaults.py``, put together in ``options.py``). One pass of the model is
in ``core/forward/``; chat templates are in ``core/tokenizer/chat/``. Begin with ``calls.py``, then ``scheduler.py``.

Prompts of unequal length are padded on the left, and the attention mask says so, so each row's logits are those that
it would get alone, but for rounding: in bfloat16 that parts texts at near ties. Sampling does not depend on how rows
are batched: a row's noise is keyed by its index in the request (prompt index * num_return_sequences + i). So
``["a", "b"]`` with a seed gives "a" the tokens that ``["a"]`` gives it, while "b", being row 1 there, draws other
tokens than alone.
"""
