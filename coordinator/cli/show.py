"""`rsfed coordinator members`, `nodes` and `releases`: who and what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from coordinator.cli.options import (
    DEFAULT_HOME,
    HomeOption,
    Output,
    OutputOption,
    open_federation,
    print_result,
)

if TYPE_CHECKING:
    from coordinator.roster import Listed


def register(app: typer.Typer) -> None:
    """Add the commands to the group."""
    app.command("members")(members)
    app.command("nodes")(nodes)
    app.command("releases")(releases)


def members(home: HomeOption = DEFAULT_HOME, output: OutputOption = Output.TABLE) -> None:
    """List who belongs to the federation, who was put out, and who is invited and has not joined yet.

    `until` is the end of the newest certificate, which renews itself, or of the invitation, or when the member was put
    out; `rejected` counts results of training that a node sent and that could not be right, as `runs show` tells of
    each round. `audit` is "proven" where a node proved that its audit log only grew, else why not: then ask its
    operator. `coordinator audit accept` is for a node whose operator explained it. `scope` is what an analyst may ask.
    """
    from coordinator.roster import roster  # noqa: PLC0415 - loaded only when used
    from rsfed.clock import utc_now  # noqa: PLC0415 - loaded only when used

    with open_federation(home) as (_, state, _config), state.reading() as connection:
        listed = roster(connection, utc_now())
    rows: list[dict[str, object]] = [
        {
            "name": each.name,
            "role": each.role,
            "state": each.state,
            "joined": each.joined,
            "expires": each.expires,
            "revoked": each.revoked,
            "rejected": each.rejected,
            "audit": each.audit and (each.audit.reason or "proven"),
            "audit_entries": each.audit and each.audit.position.size,
            "audit_restarts": each.audit and len(each.audit.earlier),
            "scope": _scope(each, output),
        }
        for each in listed
    ]
    if output is Output.TABLE:
        rows = [row | {"until": row["revoked"] or row["expires"]} for row in rows]
    told = [column for column in ("rejected", "audit", "scope") if any(row[column] for row in rows)]
    print_result(output, "members", rows, ("name", "role", "state", "joined", "until", *told))


def _scope(listed: Listed, output: Output) -> object:
    """Return what an analyst may: as docs/output.md describes it, or in words."""
    if output is Output.JSON:
        return listed.allowed and listed.allowed.as_json()
    if listed.role != "analyst":
        return None
    return listed.allowed.in_words() if listed.allowed else "everything"


def nodes(home: HomeOption = DEFAULT_HOME, output: OutputOption = Output.TABLE) -> None:
    """List the nodes that announced themselves: where they are, what they serve, when they were heard of last."""
    from coordinator.registry import Registry  # noqa: PLC0415 - loaded only when used
    from rsfed.clock import utc_now  # noqa: PLC0415 - loaded only when used
    from rsfed.trust.scope import level_name  # noqa: PLC0415 - loaded only when used

    now = utc_now()
    with open_federation(home) as (_, state, _config):
        rows: list[dict[str, object]] = [
            {
                "name": node.name,
                "online": node.online(now),
                "address": node.address,
                "release_version": node.release_version,
                "release_digest": node.release_digest.hex(),
                "held": node.held,
                "level": level_name(node.level),
                "software": node.software,
                "protocol": node.protocol,
                "last_seen": node.last_seen,
            }
            for node in Registry(state, utc_now).nodes()
        ]
    print_result(output, "nodes", rows, ("name", "online", "address", "release_version", "held", "level", "last_seen"))


def releases(home: HomeOption = DEFAULT_HOME, output: OutputOption = Output.TABLE) -> None:
    """List the releases that are kept, the newest first; the first one is served."""
    from coordinator.releases import kept_releases  # noqa: PLC0415 - loaded only when used

    with open_federation(home) as (place, state, _config):
        current, kept = kept_releases(place, state)
    rows: list[dict[str, object]] = [
        {
            "version": release.manifest.version,
            "digest": release.digest.hex(),
            "current": release.digest == current.digest,
            "created": release.manifest.created,
            "expires": release.manifest.expires,
            "bits": release.manifest.bits,
            "modalities": ", ".join(encoder.modality for encoder in release.manifest.encoders.values()),
            "rounds": release.manifest.training.rounds,
            "nodes": release.manifest.training.nodes,
            "privacy": release.manifest.training.privacy,
            "signed_by": release.header.key_id,
            "metrics": release.manifest.metrics,
            "calibration": {
                pair: table.model_dump(mode="json") for pair, table in release.manifest.calibration.items()
            },
            "cells": len(release.manifest.codebook),
        }
        for release in kept
    ]
    print_result(output, "releases", rows, ("version", "current", "created", "bits", "modalities", "rounds", "nodes"))
