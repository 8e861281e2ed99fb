"""Demo and offline evaluation: finds node and coordinator through the command line, never imports them."""
