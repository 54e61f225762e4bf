"""The `cleangpt` command."""
