"""Training runs: the policy, the run around it, and the two loops that methods are written on."""
