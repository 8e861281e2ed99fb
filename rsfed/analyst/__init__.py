"""The third role: makes codes locally from a verified release, signs queries, shows ranked answers.

Knows the wire of the coordinator; knows nothing of how nodes or the coordinator work inside.
"""
