"""One federation: identity of its members, registry, fan-out, merge, releases, command line."""
