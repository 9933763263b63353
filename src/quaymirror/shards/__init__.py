"""The division of one run over several machines: the plan that one makes, and the share of each."""
