"""Why a certificate will not do, said before dialling: on the wire every TLS failure looks like an absent server."""

from __future__ import annotations

from datetime import datetime

from rsfed.errors import NotAdmitted
from rsfed.trust.certificates import verify_chain
from rsfed.trust.identity import Identity


def check_identity(identity: Identity, *, now: datetime) -> None:
    """Check that the own certificate can be believed by others.

    An old trust bundle does not stop the call that would bring a newer one, so its age is not asked here.

    Raises:
        NotAdmitted: KEY_MISMATCH, REVOKED, or the reasons of `verify_chain`, with what to do.
    """
    leaf = identity.chain[0]
    role = identity.member.role
    if leaf.public_key() != identity.key.public_key():
        raise NotAdmitted(
            "the private key does not fit the certificate; restore a backup or join again", reason="KEY_MISMATCH"
        )
    try:
        verify_chain(identity.chain, identity.bundle.cas, now=now)
    except NotAdmitted as error:
        raise NotAdmitted(f"your own certificate will not do: {error.public}", reason=error.reason) from error
    if identity.member.federation != identity.bundle.federation:
        raise NotAdmitted(
            f"your certificate is of federation {identity.member.federation}, your trust bundle of another; join again",
            reason="WRONG_FEDERATION",
        )
    if leaf.serial_number in identity.bundle.revoked_serials or identity.member.uri in identity.bundle.revoked_names:
        raise NotAdmitted(
            f"your certificate as {role} {identity.member.name} was revoked; ask the federation for a new invitation",
            reason="REVOKED",
        )
