"""Shared by the commands `splitlearn` and `cleangpt`: verbs, errors and exit codes."""
