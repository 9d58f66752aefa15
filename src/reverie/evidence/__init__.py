"""Evidence: the published record, honest statistics, comparisons, sweeps and ablations. Read from files of runs only.

statistics.py   mean, median, IQM, optimality gap, profiles, bootstrap and Student intervals: NumPy and SciPy
record.py       what others published: curves, tables, random and human scores, with where they come from
protocol.py     what a score depends on, and whether two scores may be compared at all
results.py      one result of one run: a small JSON file with every episode and where it comes from
compare.py      own seeds against the record, at the same number of frames
sweep.py        many runs: planned, estimated, run, continued; ablate.py: one factor after the other, on top of it
"""
