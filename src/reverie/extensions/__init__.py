"""What is no part of DreamerV2 and may stand beside it; each off unless asked for, and then nothing changes.

learner.py    networks that learn from the states of each batch without shaping them
ensemble.py   several predictors of the same: where they disagree, the model has not been
explore.py    rewards of a behaviour that goes there, and of one that stays away
overshooting.py  losses on what the model predicts several steps ahead, without observations
"""
