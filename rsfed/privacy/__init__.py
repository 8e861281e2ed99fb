"""What a node discloses, as pure rules: no IO, no wire, no clock of its own."""
