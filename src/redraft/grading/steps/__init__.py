"""Step checkers: which step of a worked solution is the first wrong one."""
