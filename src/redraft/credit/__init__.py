"""What each token of an episode is worth to the learner."""
