"""`rsfed evaluate`: ways to search, side by side on one's own labelled images.

`data` reads the images, `division` splits them, `methods` turns them into codes, `run` measures, `outputs` and `report`
tell. Metrics, baselines, objectives and networks are those of `rsfed.hashing`; none is written here.
"""
