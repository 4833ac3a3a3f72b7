"""Training rows and preference pairs, the losses on them, and the learner that changes weights."""
