"""The check ahead of time: does an experiment fit a TPU slice, and what bounds it?

In: experiment files and the name of a slice. Out: every program of theirs compiled by
libtpu, without a TPU, with its bytes, FLOPs, collectives and roofline.
"""
