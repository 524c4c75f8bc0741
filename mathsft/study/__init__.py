"""A study: the next settings to try, the choice of the winner, and the order of the stages."""
