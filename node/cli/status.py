"""`rsfed node status`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from node.cli.control import serve_status
from node.cli.options import DEFAULT_HOME, HomeOption, Output, OutputOption, node_home, unsearched

if TYPE_CHECKING:
    from rsfed.home import Home

_TASKS = 5  # of training that are shown; `rsfed node train status` shows more


def register(app: typer.Typer) -> None:
    """Add the commands to the group."""
    app.command("status")(status)


def status(home: HomeOption = DEFAULT_HOME, output: OutputOption = Output.TABLE) -> None:
    """Say what this node is, what it holds and what its serve process is doing."""
    from node.training.account import account, task_line  # noqa: PLC0415 - loaded only when used

    place = node_home(home)
    training = account(place, _TASKS)
    result = _status(place) | {"training": training.as_json()}
    lines = [*training.words(), *map(task_line, training.tasks)]
    typer.echo(json.dumps(result, indent=1) if output is Output.JSON else _table(result, lines))


def _status(home: Home) -> dict[str, Any]:
    """Return what is printed, in the form of `--output json`."""
    from node.catalogue import Catalogue  # noqa: PLC0415 - loaded only when used
    from node.closed import closed, lacking  # noqa: PLC0415 - loaded only when used
    from node.recipe import spec_of  # noqa: PLC0415 - loaded only when used
    from node.requests import count_waiting  # noqa: PLC0415 - loaded only when used
    from node.searchable import warning  # noqa: PLC0415 - loaded only when used
    from rsfed.clock import utc_now  # noqa: PLC0415 - loaded only when used
    from rsfed.config import NodeConfig, load_config  # noqa: PLC0415 - loaded only when used
    from rsfed.privacy.policy import policy  # noqa: PLC0415 - loaded only when used
    from rsfed.raster.modality import modality  # noqa: PLC0415 - loaded only when used
    from rsfed.trust.release_store import ReleaseStore  # noqa: PLC0415 - loaded only when used

    config = load_config(NodeConfig, home.path)
    release, level = ReleaseStore(home.releases).current(), policy(config.policy.level)
    with Catalogue(home) as catalogue:
        acquisitions = catalogue.acquisitions()
        archive = {
            "path": str(catalogue.root),
            "modality": config.archive.modality,
            "present": catalogue.count(),
            "recorded": catalogue.count(state="recorded"),
            "covered": catalogue.count_covered(spec_of(modality(config.archive.modality), release).max_nodata),
            "same_place": catalogue.count_behind(),
            "withdrawn": catalogue.count(state="withdrawn"),
            "labelled": catalogue.count_labelled(),
            "acquisitions": acquisitions,
            "warning": warning(catalogue.modalities(), release) or None,
        }
        lacks = release and lacking(level, acquisitions, codebook=bool(release.manifest.codebook))
        waiting = count_waiting(catalogue.connection, utc_now())
        lost = [f"{error.public} [{error.reason}]" for error in closed(home, catalogue.connection, level, release)]
    return {
        "home": str(home.path),
        **_identity(home),
        "policy": config.policy.level,
        "policy_lacks": lacks or None,
        "spending_lost": "; ".join(lost) or None,
        "archive": archive,
        "release": release
        and {
            "version": release.manifest.version,
            "digest": release.digest.hex(),
            "bits": release.manifest.bits,
            "expires": release.manifest.expires.isoformat(),
        },
        "requests_waiting": waiting,
        "serve": _serve(home),
    }


def _identity(home: Home) -> dict[str, Any]:
    from rsfed.errors import NotAdmitted  # noqa: PLC0415 - loaded only when used
    from rsfed.trust.identity import load_identity  # noqa: PLC0415 - loaded only when used

    try:
        identity = load_identity(home.identity)
    except NotAdmitted:
        return {"federation": None, "name": None, "certificate_expires": None}
    return {
        "federation": identity.member.federation,
        "name": identity.member.name,
        "certificate_expires": identity.chain[0].not_valid_after_utc.isoformat(),
    }


def _serve(home: Home) -> dict[str, Any] | None:
    answer = serve_status(home)
    return answer and {
        "pid": answer.pid,
        "state": answer.state,
        "address": answer.address,
        "connected": answer.connected,
        "release_version": answer.release_version,
        "release_digest": answer.release_digest.hex(),
        "indexed": answer.indexed,
        "pending": answer.pending,
    }


def _table(result: dict[str, Any], training: list[str]) -> str:
    archive, release, serve = result["archive"], result["release"], result["serve"]
    waiting = result["requests_waiting"]
    member = f"{result['name']} of federation {result['federation']}" if result["name"] else "not joined"
    rows = [
        ("node", member),
        ("home", result["home"]),
        ("certificate", f"until {result['certificate_expires'][:10]}" if result["name"] else "none"),
        ("policy level", result["policy"]),
        *([("", f"does not start: {lacks}; see `rsfed node doctor`")] if (lacks := result["policy_lacks"]) else []),
        *([("", f"closed: {lost}")] if (lost := result["spending_lost"]) else []),
        ("archive", f"{archive['path']} ({archive['modality']})"),
        ("patches", f"{archive['present']} present, {archive['labelled']} of them with a class"),
        ("", unsearched(archive["recorded"], archive["covered"], archive["same_place"])),
        ("", f"{archive['withdrawn']} withdrawn"),
        *([("warning", archive["warning"])] if archive["warning"] else []),
        ("acquisitions", str(archive["acquisitions"])),
        (
            "release",
            f"{release['version']} ({release['bits']} bits, {release['digest'][:12]})" if release else "none yet",
        ),
        *([("requests", f"{waiting} wait for your answer: `rsfed node requests list`")] if waiting else []),
        ("serve", _serve_line(serve) if serve else "not running"),
        *zip(["training", *[""] * len(training)], training, strict=False),
    ]
    return "\n".join(f"{name:<14}{value}" for name, value in rows)


def _serve_line(serve: dict[str, Any]) -> str:
    connected = "coordinator reached" if serve["connected"] else "coordinator not reached lately"
    if not serve["release_version"]:
        return f"starting at {serve['address']}, {_awaited(serve)}, {connected}"
    return (
        f"{serve['state']} at {serve['address']}, release {serve['release_version']}, "
        f"{serve['indexed']} patches searched, {serve['pending']} to be hashed, {connected}"
    )


def _awaited(serve: dict[str, Any]) -> str:
    """Say what has to happen before the first query is answered."""
    if serve["pending"]:
        return f"no query is answered before {serve['pending']} patches are hashed"
    return "no query is answered before a release and its index are loaded; that may take minutes"
