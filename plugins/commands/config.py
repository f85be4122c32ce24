"""``polyllama config``: the settings in effect."""

from __future__ import annotations

import click

from ...cli.console import examples, json_option, print_json, print_table


@click.command("config", epilog=examples("polyllama config", "POLYLLAMA_BACKEND=torch:cpu polyllama config --json"))
@json_option
def config(as_json: bool) -> None:
    """Show every setting: its value, where that came from, and the variable that sets it.

    From the weakest to the strongest: polyllama.yaml in your config folder, polyllama.yaml in the working folder,
    POLYLLAMA_* variables, arguments. `polyllama settings` is the same command.
    """
    from ...core.settings.files import settings_files, user_config_folder
    from ...core.settings.schema import load_settings

    rows = load_settings().describe()
    if as_json:
        print_json(
            {
                "settings": {
                    row.name: {
                        "value": row.value,
                        "source": row.source,
                        "summary": row.summary,
                        "variable": row.variable,
                    }
                    for row in rows
                },
                "files": settings_files(),
                "user_config_folder": user_config_folder(),
            }
        )
        return
    print_table(
        ["setting", "value", "from", "what it is"],
        [(row.name, _show(row.value), row.source, row.summary) for row in rows],
    )
    files = ", ".join(map(str, settings_files())) or f"none (yours would be {user_config_folder() / 'polyllama.yaml'})"
    click.echo(f"\nsettings files: {files}")


def _show(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "-"
    return str(value).lower() if isinstance(value, bool) else str(value)
