"""What the commands `splitlearn` and `cleangpt` have in common: verbs, and how a run ends."""
