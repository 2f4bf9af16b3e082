"""Strategy: what to try within the time, what a budget allows, which result to take."""
