"""The four BIG-Bench Hard tasks of the self-improvement papers (arXiv 2210.09261, 2310.13522)."""

from redraft.tasks.bbh import cells, tasks

TASKS = [*tasks.TASKS, *cells.TASKS]
"""What this folder registers."""
