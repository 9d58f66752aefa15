"""Measurements of speed and memory, behind `reverie bench`.

    subject.py     what is measured: settings, a task's description, random experience
    clocks.py      repeating, timing, statistics, memory
    parts.py       time of an update by part: wraps the agent's methods from outside
    arithmetic.py  operations and bytes of an update by part, counted on the meta device
    ceilings.py    what the hardware can do: matrix products and copies, measured
    learning.py    the benchmarks: update, policy, replay; none needs an environment

`benchmarks/roofline.py` and `benchmarks/throughput.py` in the repository measure with it, too.
"""
