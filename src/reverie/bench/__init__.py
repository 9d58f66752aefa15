"""How quick is it, and how quick could it be? The measurements behind `reverie bench`.

    subject.py   what is measured: settings, a task's description, random experience
    clocks.py    repeating, timing, statistics, memory
    parts.py     where an update's time and arithmetic go: watches the agent's methods from outside
    roofline.py  arithmetic of an update counted without computing it, what the hardware can do, and hence the floor
    learning.py  update, policy, replay: no environment needed
    stepping.py  collect, train: the real thing, in a temporary directory

Leaves: nothing in the package imports them but the command line (`verbs_bench.py`).
"""
