"""The command lines of the reference documentation: ``run --task ... --model ...``, and the conversion script's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import REFERENCE, Outcome, spawn
from polyllama import Llama, LlamaForCausalLM, LlamaTokenizer

PROMPT = "Once upon a time"
BUNDLED = Path(__file__).parents[2] / "models" / "tiny"


class TestRun:
    def test_the_documented_form_with_a_prompt_that_is_piped_in(self) -> None:
        options = ("--task", "text-generation", "--model", "tiny", "--device", "cpu", "--max-new-tokens", "6")
        done = spawn("run", *options, *REFERENCE, stdin=PROMPT + "\n")
        wanted = Llama.load("tiny", backend="reference").generate(PROMPT, max_new_tokens=6).text
        assert (done.returncode, done.stdout) == (0, wanted + "\n"), done.stderr
        assert "Traceback" not in done.stderr

    def test_words_are_prompts_where_the_model_is_named(self, call: Callable[..., Outcome]) -> None:
        options = (*REFERENCE, "--max-new-tokens", "3", "--json")
        found = json.loads(call("run", PROMPT, "--model", "tiny", *options)[1])
        assert found["model"] == "tiny" and found["prompt"] == PROMPT
        several = json.loads(call("run", "--model", "tiny", PROMPT, "The sun", *options)[1])
        assert [row["prompt"] for row in several["results"]] == [PROMPT, "The sun"]
        assert several["results"][0]["text"] == found["text"]
        assert found["text"] == json.loads(call("run", "tiny", PROMPT, *options)[1])["text"]

    def test_other_tasks_by_their_documented_names(self, call: Callable[..., Outcome]) -> None:
        with pytest.warns(match="score.weight not stored"):
            llm = Llama.load("tiny", task="sequence-classification", backend="reference")
        wanted = llm.predict(PROMPT)
        code, out, _ = call("run", "--task", "text-classification", "--model", "tiny", PROMPT, *REFERENCE, "--json")
        assert code == 0 and wanted.label in out

    def test_devices_by_number(self, call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        code, out, err = call("run", "--model", "tiny", PROMPT, "--device", "0", "--backend", "torch")
        assert (code, out) == (1, "") and "'cuda:0'" in err and err.count("\n") == 1
        code, out, err = call("run", "--model", "tiny", PROMPT, "--device", "-1", "--max-new-tokens", "1", *REFERENCE)
        assert code == 0 and "(reference on cpu" in err

    def test_no_model(self, call: Callable[..., Outcome]) -> None:
        code, out, err = call("run", "--task", "text-generation")
        assert (code, out) == (2, "")
        assert err == "error: Missing argument 'MODEL'. See `polyllama run --help`.\n"

    def test_the_shell_completes_the_model(self, call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
        for words, wanted in (
            ("polyllama run --model llama-3.1-405b-ins", "llama-3.1-405b-instruct"),
            ("polyllama convert --input_d", "--input_dir"),
        ):
            monkeypatch.setenv("_POLYLLAMA_COMPLETE", "bash_complete")
            monkeypatch.setenv("COMP_WORDS", words)
            monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
            assert f"plain,{wanted}" in call()[1].split()


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Meta's layout: a folder for each size, in two files, and the tokenizer beside them."""
    pytest.importorskip("torch", reason="torch is not installed")
    from checkpoint_models import write_meta
    from transformers import LlamaForCausalLM as Theirs

    folder = tmp_path_factory.mktemp("meta")
    write_meta(folder / "7B", Theirs.from_pretrained(BUNDLED, dtype="float32"), ranks=2)
    shutil.copy(BUNDLED / "tokenizer.model", folder)
    return folder


class TestConvert:
    def test_the_documented_form_and_loading_what_it_wrote(self, originals: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        words = ("--input_dir", str(originals), "--model_size", "7B", "--output_dir", str(out))
        done = spawn("convert", *words)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr and str(out) in done.stdout
        tokenizer = LlamaTokenizer.from_pretrained(out)
        model = LlamaForCausalLM.from_pretrained(out, backend="reference", dtype="float32")
        ids = tokenizer(PROMPT)["input_ids"]
        assert ids == Llama.load("tiny").tokenizer(PROMPT)["input_ids"]
        wanted = Llama.load("tiny", backend="reference", dtype="float32").forward([ids]).numpy()["logits"]
        assert np.allclose(np.asarray(model([ids]).logits), wanted, atol=1e-5)

    def test_both_spellings_and_weights_beside_the_tokenizer(
        self, call: Callable[..., Outcome], originals: Path, tmp_path: Path
    ) -> None:
        flat = tmp_path / "flat"
        shutil.copytree(originals / "7B", flat)
        shutil.copy(originals / "tokenizer.model", flat)
        out = tmp_path / "out"
        words = ("--input-dir", str(flat), "--model-size", "7B", "--output-dir", str(out), "--num-shards", "2")
        code, found, err = call("convert", *words, "--safe-serialization", "True", "--instruct", "false", "--json")
        assert code == 0, err
        assert json.loads(found)["format"] == "huggingface" and (out / "model.safetensors").exists()

    @pytest.mark.parametrize(("version", "context"), [("1", 2048), ("2", 4096), ("3", 8192), ("3.1", 131072)])
    def test_the_version_decides_the_context(
        self, call: Callable[..., Outcome], originals: Path, tmp_path: Path, version: str, context: int
    ) -> None:
        out = tmp_path / "out"
        words = ("--input_dir", str(originals), "--model_size", "7B", "--output_dir", str(out))
        code, _, err = call("convert", *words, "--llama_version", version)
        assert code == 0, err
        config = json.loads((out / "config.json").read_text())
        assert config["max_position_embeddings"] == context
        wanted = ("llama3", 8.0) if version == "3.1" else ("default", None)
        assert (config["rope_parameters"]["rope_type"], config["rope_parameters"].get("factor")) == wanted

    def test_the_tokenizer_alone(self, call: Callable[..., Outcome], originals: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        words = ("--input_dir", str(originals), "--model_size", "tokenizer_only", "--output_dir", str(out))
        code, found, _ = call("convert", *words)
        assert (code, found) == (0, f"{out}: the tokenizer\n")
        assert not (out / "config.json").exists()
        assert LlamaTokenizer.from_pretrained(out)(PROMPT) == Llama.load("tiny").tokenizer(PROMPT)

    def test_fields_of_the_configuration(self, call: Callable[..., Outcome], tmp_path: Path) -> None:
        code, _, err = call("convert", "tiny", str(tmp_path / "out"), "--to", "hf", "--set", "rms_norm_eps=0.5")
        assert code == 0, err
        assert json.loads((tmp_path / "out" / "config.json").read_text())["rms_norm_eps"] == 0.5
        code, _, err = call("convert", "tiny", str(tmp_path / "x"), "--to", "hf", "--set", "hiden_act=relu")
        assert code == 1 and "did you mean" in err and "hidden_act" in err

    @pytest.mark.parametrize(
        ("words", "code", "said"),
        [
            (("--model_size", "13B"), 1, "--model_size 13B: neither "),
            ((), 1, "holds no params.json; give --model_size: there is 7B"),
            (("--model_size", "7B", "--num_shards", "3"), 1, "--num_shards is 3, and "),
            (("--model_size", "7B", "--instruct", "True"), 1, "Meta's files hold neither chat template"),
            (("--model_size", "7B", "--instruct"), 1, "Meta's files hold neither chat template"),
            (("--model_size", "7B", "--special_tokens", "<x>"), 1, "tokenizer.add_tokens(...)"),
            (("--model_size", "7B", "--push_to_hub"), 1, "`hf upload REPOSITORY FOLDER`"),
            (("--model_size", "7B", "--safe_serialization", "False"), 1, "would write a pickle"),
            (("--model_size", "7B", "--safe_serialization", "maybe"), 2, "neither True nor False"),
            (("--model_size", "7B", "--llama_version", "4"), 2, "'4' is not one of"),
            (("--model_size", "7B", "tiny"), 2, "stand for SOURCE and DESTINATION"),
        ],
    )
    def test_what_is_wrong_is_said_in_one_line(
        self,
        call: Callable[..., Outcome],
        originals: Path,
        tmp_path: Path,
        words: tuple[str, ...],
        code: int,
        said: str,
    ) -> None:
        target = ("--output_dir", str(tmp_path / "out"))
        found, out, err = call("convert", "--input_dir", str(originals), *target, *words)
        assert (found, out) == (code, "") and said in err and err.count("\n") == 1, err
        assert not (tmp_path / "out").exists()

    def test_a_version_that_the_files_contradict(
        self, call: Callable[..., Outcome], originals: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "meta"
        shutil.copytree(originals, folder)
        params = json.loads((folder / "7B" / "params.json").read_text())
        (folder / "7B" / "params.json").write_text(json.dumps({**params, "use_scaled_rope": True}))
        words = ("--input_dir", str(folder), "--model_size", "7B", "--output_dir", str(tmp_path / "out"))
        code, _, err = call("convert", *words, "--llama_version", "3")
        assert code == 1 and "has use_scaled_rope, as later versions have; give 3.1 or 3.2" in err

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("--model_size", "7B"), "--model_size goes with --input_dir, which is not given"),
            (("--input_dir", "x"), "--input_dir goes with --output_dir, which is not given"),
            ((), "Missing argument 'SOURCE'"),
            (("tiny",), "Missing argument 'DESTINATION'"),
            (("tiny", "x"), "Missing option '--to'"),
        ],
    )
    def test_what_is_missing(self, call: Callable[..., Outcome], words: tuple[str, ...], said: str) -> None:
        code, out, err = call("convert", *words)
        assert (code, out) == (2, "") and said in err
