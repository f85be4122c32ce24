"""The settings of ``polyllama serve``: its options where the command line does not give them.

None of them has a default here: what a server does by itself is said once, in ``plugins/serve/options.py``.
"""

from __future__ import annotations

from pydantic import BaseModel

from .kinds import Names, WholeNumber, setting

_SIZE = r"^\d+(\.\d+)? ?([kKMGT]i?)?B$"
_TIME = r"^(\d+(\.\d+)?(ms|s|m|h|d)?|forever|-1)$"
_A_SIZE = "a size (2GB, 512MiB ...)"
_A_TIME = "a time (30s, 5m, 2h ...), or forever"
_A_NUMBER = "a whole number, 1 or more"


class ServeSettings(BaseModel):
    """What a server does where its command line says nothing."""

    serve_models: Names | None = setting(
        None, "models that are served where the command line names none", "a list of models (in a variable: a,b,c)"
    )
    serve_host: str | None = setting(None, "address to listen on", "an address or the name of one", min_length=1)
    serve_port: WholeNumber | None = setting(None, "port to listen on", "a port, from 0 to 65535", ge=0, le=65535)
    serve_any_name: bool | None = setting(
        None, "serve every model of the registry", "true or false (also 1/0, yes/no, on/off)"
    )
    serve_api_key_file: str | None = setting(
        None, "file of the API keys that may ask, one a line", "the path of a file", min_length=1
    )
    serve_max_rows: WholeNumber | None = setting(None, "texts that a model writes at a time", _A_NUMBER, ge=1)
    serve_max_queue: WholeNumber | None = setting(
        None, "texts that may wait for a model", "a whole number, 0 or more", ge=0
    )
    serve_max_tokens: WholeNumber | None = setting(None, "most new tokens of a text", _A_NUMBER, ge=1)
    serve_max_body: str | None = setting(None, "largest request", _A_SIZE, pattern=_SIZE)
    serve_max_time: str | None = setting(None, "longest time of a request", _A_TIME, pattern=_TIME)
    serve_context: WholeNumber | None = setting(None, "most tokens of prompt and text together", _A_NUMBER, ge=1)
    serve_keep_alive: str | None = setting(
        None, "time after which a model that nobody asks for is unloaded", _A_TIME, pattern=_TIME
    )
    serve_memory: str | None = setting(None, "what all loaded models may take", _A_SIZE, pattern=_SIZE)
    serve_cors: Names | None = setting(None, "origins whose pages may ask", "a list of origins (in a variable: a,b,c)")
    serve_allow_host: Names | None = setting(
        None, "names by which the server is reached", "a list of names (in a variable: a,b,c)"
    )
    serve_access_log: bool | None = setting(
        None, "write every request to stdout", "true or false (also 1/0, yes/no, on/off)"
    )
    serve_tool_parser: str | None = setting(
        None,
        "the format in which served models call tools; by their chat templates when not set",
        "the name of a format (hermes, llama ...)",
    )
    serve_chat_template: str | None = setting(
        None, "a file with another chat template", "the path of a file", min_length=1
    )
