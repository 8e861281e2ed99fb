"""A federation in one process: the apps of coordinator and nodes over made-up divisions of labelled images."""
