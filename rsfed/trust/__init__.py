"""Who is who, and what is genuine: certificates, roles, trust bundle, invitations, signed queries and releases.

Rules are functions without IO; folders and calls live in `identity`, `enrolment` and `release_store`. Channels and
servers are `rsfed.transport`; what a believed member may learn is `rsfed.privacy`.
"""
