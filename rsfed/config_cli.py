"""`rsfed config`: check configuration files and print what they may hold."""

from __future__ import annotations

import os
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
        typer.Option(
            file_okay=False,
            help="Home to check, of any role; may be given several times. The default homes when left out.",
        ),
    ] = None,
) -> None:
    """Check the configuration of homes: syntax, unknown keys, values, environment overrides.

    Every problem is named with its file and key; the exit code is 6 when there is any. A home that is named, by --home
    or RSFED_ROLE_HOME (ROLE is NODE, COORDINATOR or ANALYST), and has no configuration is a problem, too; a default
    home that does not exist is not.
    """
    from rsfed.errors import ConfigError  # noqa: PLC0415 - loaded only when used

    named, usual = _places(home or [])
    problems, found = [], 0
    for place in [*named, *usual]:
        results = _check(place)
        found += len(results)
        problems += [result for result in results if result]
        if not results and place in usual:
            typer.echo(f"{place}: {'no configuration' if place.exists() else 'does not exist'}, not checked")
        elif not results:
            problems.append(f"there is no configuration in {place}; run `rsfed ROLE init` first, or name another home")
    if problems:
        raise ConfigError("; ".join(problems))
    if not found:
        raise ConfigError("there is no configuration to check; name a home with --home")


def _places(homes: list[Path]) -> tuple[list[Path], list[Path]]:
    """Return the homes that somebody named, and the default ones of roles whose home nobody did."""
    usual = []
    if not homes:
        places = {role: os.environ.get(f"RSFED_{role.upper()}_HOME") for role in Role}
        homes = [Path(place) for place in places.values() if place]
        usual = [Path("~/.rsfed") / role for role, place in places.items() if not place]
    named, usual = ([path.expanduser().absolute() for path in paths] for paths in (homes, usual))
    return named, usual


def _check(home: Path) -> list[str]:
    """Check every configuration in a home; return for each what is wrong with it, "" where nothing is."""
    from rsfed.config import AnalystConfig, CoordinatorConfig, NodeConfig  # noqa: PLC0415 - loaded only when used

    results = [_problem(NodeConfig, home), _problem(CoordinatorConfig, home), _problem(AnalystConfig, home)]
    return [result for result in results if result is not None]


def _problem(model: type[Config], home: Path) -> str | None:
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
