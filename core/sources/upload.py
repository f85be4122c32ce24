"""Sending a folder to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..arguments import checked
from ..errors import DownloadError
from ..settings.schema import load_settings
from .download import explain


def check_online(repo_id: str) -> None:
    """Raise an error where the settings say offline.

    Raises:
        DownloadError: names the setting or variable.
    """
    settings = load_settings()
    if settings.offline:
        raise DownloadError(
            f"{repo_id} cannot be sent to the Hub: this is offline ({settings.provenance['offline']})",
            hint="save to a folder and send it later with `hf upload`",
        )


@checked
def push_folder(
    folder: Path,
    repo_id: str,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Send what is in `folder` to a model repository, made if need be; returns the commit's address.

    Raises:
        DownloadError: it cannot be reached, or refuses; says what to do.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    check_online(repo_id)
    api = HfApi(library_name="polyllama", token=token)
    try:
        made: Any = api.create_repo(repo_id, private=private, exist_ok=True)
        sent: Any = api.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            commit_message=commit_message or "Upload a model with polyllama",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )
    except HFValidationError as error:
        raise DownloadError(f"{repo_id!r} is no repository id: {' '.join(str(error).split())}") from error
    except Exception as error:  # of huggingface_hub, or the HTTP library below it, which differs between versions
        what = explain(error, repo_id, revision or "main", started=True)
        raise DownloadError(what.message + "; it was to be sent there", hint=what.hint) from error
    return str(sent)
