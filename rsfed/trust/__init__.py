"""Who is who, and what is genuine: certificates, roles, trust bundle, invitations, signed queries, releases, audits.

Rules are functions without IO; folders and calls live in `identity`, `enrolment`, `release_store` and `audit_log`.
Channels and servers are `rsfed.transport`; what a believed member may learn is `rsfed.privacy`.
"""
