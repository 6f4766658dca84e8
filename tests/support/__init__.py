"""What several kinds of test share: a fleet of real processes, targets, and the history checker."""
