"""One `splitlearn` command; verbs are imported when they are called."""
