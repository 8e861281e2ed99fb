"""Who is who, and what is genuine: certificates, roles, trust bundle, signed queries and releases.

Rules are functions without IO; folders and calls live in `identity`, `enrolment` and `release_store`.
"""
