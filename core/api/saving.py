"""The part of :class:`~polyllama.Llama` that writes it to a folder, or to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import checked_methods
from ..errors import InputError, UnsupportedError
from ..messages import mention

if TYPE_CHECKING:
    from ..generation.config import GenerationConfig
    from ..loading.load import Loaded
    from ..tokenizer.tokenizer import Tokenizer


@checked_methods
class Saving:
    """Saving a loaded model."""

    _loaded: Loaded

    if TYPE_CHECKING:

        def _tokenizer_or_none(self) -> Tokenizer | None: ...
        def _changed_generation_config(self) -> GenerationConfig | None: ...

    def save(self, folder: str | Path, *, max_shard_size: int | str = "5GB") -> Path:
        """Write the model as a Hugging Face folder: config, weights, tokenizer, generation defaults.

        Weights are written one at a time; files appear under their final name only when whole.

        Returns:
            The folder.
        """
        from ..export.saving import save

        return save(
            self._loaded,
            folder,
            self._tokenizer_or_none(),
            max_shard_size=max_shard_size,
            generation=self._changed_generation_config(),
        )

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        is_main_process: bool = True,
        state_dict: Any = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "5GB",
        safe_serialization: bool = True,
        variant: str | None = None,
        save_peft_format: bool = True,
        save_original_format: bool = True,
        save_function: Any = None,
        **options: Any,
    ) -> Path:
        """:meth:`save` by the name the reference documentation uses; weights are always safetensors.

        Args:
            save_directory: where; made if need be.
            is_main_process: ``False`` writes nothing, for the other processes of a training.
            state_dict: other weights than the model's; only where torch runs the model.
            push_to_hub: send the folder to the Hub too; `options` are those of :meth:`push_to_hub`, and ``repo_id`` is
                the folder's name if it is not given.
            max_shard_size: bytes, or text such as ``"5GB"``, of one file at most.
            safe_serialization: ``False`` would write a pickle, and is refused.
            variant: a part of the files' names; refused.
            save_peft_format, save_original_format, save_function: of no meaning here: adapters are merged or refused,
                tensors always have their original names, and files are safetensors, whoever would write others.

        Returns:
            The folder.

        Raises:
            UnsupportedError: an argument that is not offered, by name.
            CheckpointError: the folder cannot be made or written, or there is not enough space.
        """
        if not safe_serialization:
            raise UnsupportedError("safe_serialization=False would write a pickle", hint="leave it out")
        if variant is not None:
            raise UnsupportedError(mention("variant", variant) + " is not written", hint="save to a folder of its own")
        if state_dict is not None:
            raise UnsupportedError(
                f"state_dict: the weights of backend {self._loaded.choice.backend.name!r} are the model's own",
                hint="leave it out",
            )
        if not push_to_hub and options.keys() - {"token"}:
            name = sorted(options.keys() - {"token"})[0]
            raise InputError(mention(name) + " goes with push_to_hub=True", hint="leave it out")
        if not is_main_process:
            return Path(save_directory).expanduser()
        target = self.save(save_directory, max_shard_size=max_shard_size)
        if push_to_hub:
            from ..sources.upload import push_folder

            push_folder(target, options.pop("repo_id", None) or target.name, **options)
        return target

    def push_to_hub(self, repo_id: str, *, max_shard_size: int | str = "5GB", **options: Any) -> str:
        """Write the model into a temporary folder and send it to a repository of the Hub, made if need be.

        Args:
            repo_id: ``"organization/name"``, or a name for the repository of whoever is logged in.
            max_shard_size: as for :meth:`save`.
            options: ``token``, ``private``, ``commit_message``, ``commit_description``, ``revision``, ``create_pr``.

        Returns:
            The address of the commit.

        Raises:
            DownloadError: the Hub cannot be reached or refuses; or polyllama is offline.
        """
        import tempfile

        from ..sources.upload import check_online, push_folder

        check_online(repo_id)
        with tempfile.TemporaryDirectory(prefix="polyllama-push-") as folder:
            return push_folder(self.save(folder, max_shard_size=max_shard_size), repo_id, **options)
