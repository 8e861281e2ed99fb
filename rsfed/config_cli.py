"""`rsfed config`: check configuration files and print what they may hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsfed.trust.names import Role

if TYPE_CHECKING:
    from pydantic import BaseModel

    from rsfed.config import Config

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Check configuration files and print their schema.")


@app.command()
def check(
    home: Annotated[
        list[Path] | None,
        typer.Option(help="Home to check, of any role; may be given several times. The default homes when left out."),
    ] = None,
) -> None:
    """Check the configuration of homes: syntax, unknown keys, values, environment overrides.

    Every problem is named with its file and key; the exit code is 6 when there is any.
    """
    from rsfed.config import AnalystConfig, CoordinatorConfig, NodeConfig  # noqa: PLC0415 - loaded only when used
    from rsfed.errors import ConfigError  # noqa: PLC0415 - loaded only when used

    homes = home or [Path("~/.rsfed") / role for role in Role]
    found, problems = 0, []
    for place in (path.expanduser().absolute() for path in homes):
        results = [_check(NodeConfig, place), _check(CoordinatorConfig, place), _check(AnalystConfig, place)]
        found += sum(result is not None for result in results)
        problems += [result for result in results if result]
    if problems:
        raise ConfigError("; ".join(problems))
    if not found:
        raise ConfigError("there is no configuration to check; name a home with --home")


def _check(model: type[Config], home: Path) -> str | None:
    """Return the problems of a configuration, "" where there are none, None where there is no such file."""
    from rsfed.config import config_path, load_config  # noqa: PLC0415 - loaded only when used
    from rsfed.errors import ConfigError  # noqa: PLC0415 - loaded only when used

    path = config_path(model, home)
    if not path.exists():
        return None
    try:
        load_config(model, home)
    except ConfigError as error:
        return str(error)
    typer.echo(f"{path}: good")
    return ""


@app.command()
def schema(role: Annotated[Role, typer.Argument(help="Whose configuration.")]) -> None:
    """Print the JSON Schema of a role's configuration file."""
    import json  # noqa: PLC0415 - loaded only when used

    from rsfed.config import AnalystConfig, CoordinatorConfig, NodeConfig  # noqa: PLC0415 - loaded only when used

    models: dict[Role, type[BaseModel]] = {
        Role.NODE: NodeConfig,
        Role.COORDINATOR: CoordinatorConfig,
        Role.ANALYST: AnalystConfig,
    }
    typer.echo(json.dumps(models[role].model_json_schema(), indent=2))
