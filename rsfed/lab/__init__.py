"""Demo, synthetic archives, benchmark and offline evaluation: the federation tried on one machine.

Starts node and coordinator through the command line and never imports them; nothing outside this folder imports it.
"""
