"""The exam: how far a learner can be trusted, and what may be concluded from its scores."""
