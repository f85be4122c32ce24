"""Which special tokens a Llama tokenizer has, and which it adds to a text."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import TokenizerError
from .declared import SpecialTokens
from .engines.added_tokens import AddedToken
from .engines.engine import Engine, PieceEngine
from .engines.special_tokens_template import SpecialTokensTemplate


class _Default(str):
    """A token that is taken where the vocabulary has it; one that the caller names must be there or is added."""


UNK = _Default("<unk>")


BOS = _Default("<s>")


EOS = _Default("</s>")


_LLAMA3_NAMES = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}


def resolved_roles(
    roles: dict[str, object],
    engine: Engine,
    added: Mapping[int, AddedToken],
    template: SpecialTokensTemplate | None,
) -> dict[str, object]:
    """Defaults that the vocabulary does not have give way to what it has instead, or to None."""
    texts = {token.content for token in added.values()}
    resolved: dict[str, object] = {}
    for role, value in roles.items():
        text = value if isinstance(value, str) else getattr(value, "content", None)
        there = isinstance(text, str) and (text in texts or engine.token_id(text) is not None)
        if isinstance(value, _Default) and not there:
            value = _own_token(role, engine, template)
        elif isinstance(value, _Default):
            value = str(value)
        resolved[role] = value
    return resolved


def _own_token(role: str, engine: Engine, template: SpecialTokensTemplate | None) -> str | None:
    if isinstance(engine, PieceEngine):
        model = engine.model
        token_id = {"bos_token": model.bos_id, "eos_token": model.eos_id, "unk_token": model.unk_id}[role]
        return engine.token(token_id)
    if role == "bos_token" and template is not None and template.single and isinstance(template.single[0][0], tuple):
        return engine.token(template.single[0][0][0])
    name = _LLAMA3_NAMES.get(role)
    return name if name is not None and engine.token_id(name) is not None else None


def what_to_add(special: SpecialTokens, add_bos: bool | None, add_eos: bool | None) -> tuple[bool | None, bool | None]:
    """add_bos_token and add_eos_token; one given alone leaves the other as the template has it."""
    for name, value in (("add_bos_token", add_bos), ("add_eos_token", add_eos)):
        if value is not None and not isinstance(value, bool):
            raise TokenizerError(f"{name} must be true, false or None, got {value!r:.80}")
    if special.template is None:
        if add_bos and special.roles.get("bos_token") is None:
            add_bos = False  # the vocabulary has none
        return bool(add_bos), bool(add_eos)
    if add_bos is None and add_eos is None:
        return None, None
    steps = special.template.single
    return (
        isinstance(steps[0][0], tuple) if add_bos is None else add_bos,
        isinstance(steps[-1][0], tuple) if add_eos is None else add_eos,
    )
