"""What each outcome of a node means to an analyst, and the way out: one sentence for every reason. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rsfed.analyst.results import UNREACHED, Outcome, SearchResult, worst_outcomes
from rsfed.errors import NoNodeReachable, NotAdmitted, RsfedError, WithheldByPolicy

_OPERATOR = "ask the coordinator's operator"
_BY_REASON = {
    "AUDIT_UNWRITABLE": "it cannot write its audit log, so it answers nobody; tell its operator",
    "BUCKET_CHANGED": "its archive changed while its items were listed; search again",
    "BUNDLE_EXPIRED": f"it believes nobody until it has news from the coordinator; {_OPERATOR} whether that runs",
    "CERT_EXPIRED": "a certificate has expired; search again, which renews yours, else tell its operator",
    "CLOCK_SKEW": "its clock and yours differ by more than a minute; set yours (NTP), else tell its operator",
    "ENVELOPE_EXPIRED": "the query was too old when it came; search again, and check this machine's clock",
    "FILTER_UNSUPPORTED": "its software knows no filters; search again without one, or ask its operator to update it",
    "MESSAGE_TOO_LARGE": "its answer is too large; ask for a smaller --k or --radius",
    "NO_SEALING_KEY": "the query was not sealed for it: it joined just now, or has no key; search again",
    "QUOTA_USED": f"you have used your requests of this day; wait until midnight UTC, or {_OPERATOR} for more",
    "RATE_LIMITED": "you asked too often; wait a minute, or ask for a smaller --radius or with --k",
    "RELEASE_EXPIRED": f"the release that it serves has expired; {_OPERATOR} to publish a new one",
    "REPLAY": "it was restored from a backup a moment ago; search again in a minute",
    "REVOCATION_STALE": "it has not heard of the coordinator for a day, so it answers nobody; tell its operator",
    "REVOKED": f"it knows you as revoked; {_OPERATOR} for a new invitation",
    "SCOPE_ENDED": f"the time in which you may ask is over; {_OPERATOR} for more",
    "SCOPE_LEVEL": f"it discloses more than you may learn; {_OPERATOR}, who may allow it",
    "SCOPE_MODALITY": f"you may not search this modality; {_OPERATOR}, who may allow it",
    "SCOPE_NODE": f"you may not ask this archive; {_OPERATOR}, who may allow it",
    "SEAL_BROKEN": f"its answer was changed on its way, or is not for this query; search again, else {_OPERATOR}",
    "SEAL_SENDER": f"another member answered in its name; {_OPERATOR}",
    "SEAL_SIGNATURE": f"its answer is not signed by whom it names; {_OPERATOR}",
    "STARTING": "it is starting: it loads its index, or hashes its images for the first time; search again later",
}
_PRIVATE = "it answers only private queries: `rsfed query --private` searches the catalogue that it publishes"
_BY_LEVEL = {  # of what a node refuses for its policy level
    "catalogue": _PRIVATE,
    "sealed": _PRIVATE,
    "counts": "it answers no query: it publishes noisy counts of its classes; `rsfed query --private` shows these",
}
_UNPUBLISHED = "it may have published nothing yet, for too few acquisitions or a release without a codebook"
_OF_REFINE = {  # why an archive listed no items of buckets
    "CATALOGUE_CHANGED": "it published a new catalogue meanwhile; ask again",
    "NO_CATALOGUE": "it publishes no catalogue just now; ask again later",
    "POLICY": "it lists no items now, mostly until there is a new release; ask its operator",
}
UNREFINED = "no archive lists items: only those at the level catalogue do, and none of them publishes just now"
_BY_STATUS = {
    "PARTIAL": "not all of it was searched: it is hashing images just now (search again later), or its images are of a "
    "modality that the release does not search (tell its operator)",
    "TIMED_OUT": "it did not answer in time; search again, and if it goes on tell its operator",
    "UNREACHABLE": f"the coordinator cannot reach it; search again later, and if it goes on {_OPERATOR}",
    "BUSY": "it has too much to do; search again in a minute",
    "EJECTED": "it failed several times, so it is not asked for up to five minutes; search again after that",
    "REFUSED": "it refused the query; tell its operator the reason",
    "STALE_RELEASE": "it serves another release than your codes are of, until it has hashed its images for the newest; "
    "search again in some minutes",
    "INVALID": "its answer broke the rules and was not used; tell its operator",
}
_OPTIONS = {"time": "--after, --before", "bbox": "--bbox", "modality": "--modality", "label": "--label"}
_UNFILTERABLE = "UNFILTERABLE_"
BOUNDED = (
    "an image of it did not bear out what it had claimed, so it has no more than its share of a ranking; once that is "
    "explained, `rsfed access believe {node}`"
)
SHOWN = 16  # hexadecimal digits of a query's id or digest, by which `audit export --query` finds it


def notes(results: Sequence[SearchResult], filtered: Sequence[str] = ()) -> list[str]:
    """Return for each node that did not answer a query whole what that means and the way out, one line each.

    Args:
        results: What a search returned.
        filtered: Fields that it was filtered by, as `Filters.fields` names them.
    """
    lines = []
    for outcome in worst_outcomes(results):
        if outcome.status != "COMPLETE":
            lines.append(f"{outcome.node}: {advice(outcome, filtered)}")
        if outcome.bounded:
            lines.append(f"{outcome.node}: {BOUNDED.format(node=outcome.node)}")
        if outcome.unknown:
            fields = ", ".join(outcome.filtered)
            lines.append(f"{outcome.node}: {outcome.unknown} items do not say enough to pass the filter ({fields})")
    refused = [each for each in results if any(outcome.status == "REFUSED" for outcome in each.outcomes)]
    names = {each.query_digest: each.query_id.hex() for each in refused}
    return lines + [
        f"what was refused is in audit logs as query {digest[:SHOWN]} (nodes) or {query_id[:SHOWN]} (coordinator)"
        for digest, query_id in names.items()
    ]


def advice(outcome: Outcome, filtered: Sequence[str] = ()) -> str:
    """Return what the outcome of a node that did not answer whole means, and the way out; arguments as for `notes`."""
    if outcome.reason.startswith(_UNFILTERABLE):
        fields = outcome.unfilterable or (outcome.reason.removeprefix(_UNFILTERABLE).lower(),)
        return f"it lets no query be filtered so; search again without {_options(fields)}"
    if outcome.status == "PARTIAL" and outcome.reason not in {"", *_BY_REASON}:
        return "not all that it found could be listed; search again, or with a smaller --radius"
    if outcome.reason == WithheldByPolicy.reason:
        return _BY_LEVEL.get(outcome.level) or _withheld(filtered)
    return _BY_REASON.get(outcome.reason, _BY_STATUS[outcome.status])


def of_refine(reason: str) -> str:
    """Return what it means that an archive listed no items of its buckets, and the way out."""
    return _OF_REFINE.get(reason) or _BY_REASON.get(reason) or _BY_STATUS.get(reason, _BY_STATUS["REFUSED"])


def _withheld(filtered: Sequence[str]) -> str:
    """Return why a level that answers by cells may have refused: a class is never filtered by there."""
    if not filtered:
        return f"its policy level lets it answer nothing: {_UNPUBLISHED}; tell its operator"
    options = _options(["label"] if "label" in filtered else filtered)
    return (
        f"its policy level does not let this query be answered: search again without {options}; without a filter "
        f"{_UNPUBLISHED}, then tell its operator"
    )


def _options(fields: Sequence[str]) -> str:
    """Return the options that filter by some fields."""
    return ", ".join(_OPTIONS.get(field, "a filter") for field in fields)


def nobody_answered(results: Sequence[SearchResult]) -> RsfedError:
    """Return the error for queries that no archive answered: which exit code it has depends on why."""
    outcomes = worst_outcomes(results)
    why = ", ".join(f"{outcome.node}: {outcome.reason or outcome.status}" for outcome in outcomes)
    if {outcome.status for outcome in outcomes} <= UNREACHED:
        return NoNodeReachable(f"no archive answered, because none was reached ({why}); search again, or {_OPERATOR}")
    if any(outcome.status == "REFUSED" for outcome in outcomes):
        return NotAdmitted(
            f"no archive answered, because of a refusal ({why}); see above what to do", reason="NO_ARCHIVE_ANSWERED"
        )
    return RsfedError(f"no archive answered ({why}); see above what to do", reason="NO_ARCHIVE_ANSWERED")


def was_read(refusal: RsfedError) -> bool:
    """Say whether the coordinator read a query before it refused: who is not admitted is refused before that."""
    return not isinstance(refusal, NotAdmitted) or refusal.reason.startswith("SCOPE_")
