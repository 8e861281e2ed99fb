"""Whether an image that an archive released bears out what the archive claimed of it: its code is computed anew."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from rsfed.analyst.claims import Claim, Verdict, judge
from rsfed.analyst.encoding import encode_images
from rsfed.analyst.state import Asked, find
from rsfed.errors import RsfedError
from rsfed.hashing.encoder import Encoder
from rsfed.home import Home
from rsfed.trust.release_store import ReleaseStore


def check(home: Home, state: sqlite3.Connection, asked: Asked, file: Path) -> tuple[Verdict, str]:
    """Hold an image against the claim that it was found by.

    Args:
        home: Home of the analyst, with the release that made the codes.
        state: Its database.
        asked: What was asked for.
        file: What came.

    Returns:
        What the image says, and why nothing can be told; "" where something can.
    """
    if asked.want == "quicklook":
        return Verdict.UNCHECKED, "a quicklook shows too little of the image; ask for the crop or the file"
    try:
        text = find(state, asked.handle.hex()).claim
        if not text:
            return Verdict.UNCHECKED, "what the archive claimed was not kept when it was found"
        claim = Claim.of_text(text)
        release = ReleaseStore(home.releases).get(bytes.fromhex(claim.release))
        entry = release.manifest.encoders[claim.encoder]
        codes = encode_images([file], entry, Encoder.load(release, claim.encoder), None).codes
    except RsfedError as error:
        return Verdict.UNCHECKED, f"{error.public} [{error.reason}]"
    verdict = judge(claim, codes, release.manifest.codebook)
    unclear = "the archive may list such an image in that bucket" if verdict is Verdict.UNCHECKED else ""
    return verdict, unclear
