"""The four BIG-Bench Hard tasks of the self-improvement papers (arXiv 2210.09261, 2310.13522)."""

from redraft.tasks.bbh.tasks import DESCRIPTIONS, bbh_task

__all__ = ["DESCRIPTIONS", "bbh_task"]
