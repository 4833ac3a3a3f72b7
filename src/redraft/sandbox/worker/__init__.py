"""The sandbox's worker process, started as `python -m worker` in the folder above.

It is warm and does nothing itself: each program runs in a fork of it, confined before the first
line of the program is read. It imports nothing of ours but itself, because a fork costs what its
memory weighs.
"""
