"""Redraft trains language models to find and fix their own mistakes, and measures whether they do.

Data flows in one direction, with one artefact in the middle (`docs/architecture.md`)::

    task -> rollout -> episodes -> credit -> token streams -> learner -> weights
                          |
                          +-> evaluation -> report
"""

__version__ = "0.1.0"
