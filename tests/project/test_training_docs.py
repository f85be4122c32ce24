"""docs/training.md runs as it is written."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import polyllama
import pytest
from polyllama import PolyllamaWarning
from training_support import FRAMEWORKS

PAGE = (Path(polyllama.__file__).parent / "docs" / "training.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
PREPARES, EXAMPLES, REST = BLOCKS[0], dict(zip(("torch", "mlx", "jax"), BLOCKS[1:4], strict=True)), BLOCKS[4:-2]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_example(framework: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    exec(PREPARES, names)
    assert f'backend="{framework}"' in EXAMPLES[framework]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", PolyllamaWarning)
        exec(EXAMPLES[framework], names)
    assert any("score.weight" in str(each.message) for each in said)
    assert capsys.readouterr().out == "[1, 0, 1, 0]\n"
    loss: Any = names["loss"]
    assert float(loss.detach() if framework == "torch" else loss) < 0.35
    for block in REST:
        exec(block, names)
    llm = names["llm"]
    assert llm.config.vocab_size == 1856  # type: ignore[attr-defined]
    assert not llm.is_gradient_checkpointing  # type: ignore[attr-defined]


def test_every_option_is_one_that_there_is() -> None:
    for name in ("gradient_checkpointing_enable", "resize_token_embeddings", "mean_resizing", "num_items_in_batch"):
        assert name in PAGE
    assert len(REST) == 2


@pytest.mark.parametrize("block", BLOCKS[-2:], ids=["peft", "trainer"])
@pytest.mark.filterwarnings("ignore::polyllama.PolyllamaWarning")  # a head that starts at random
def test_other_libraries_train_it(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("torch", "transformers", "accelerate", "peft"):
        pytest.importorskip(name)
    names: dict[str, object] = {}
    exec(PREPARES, names)
    exec(block, names)
    printed = capsys.readouterr().out.strip().splitlines()[-1]
    assert printed in ("[1, 0, 1, 0]", "['LABEL_1', 'LABEL_0', 'LABEL_1', 'LABEL_0']")
