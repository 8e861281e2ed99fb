"""The attack suite of the policy levels: attackers against the parts of a real node, in one process.

`archive` has the codes that are attacked (`real` those of public data), `target` the node, `guessing` what counts as a
gain, `lines` how it is told; the other modules are families of attacks. `suite.ATTACKS` names them: one more is one
function there.
"""
