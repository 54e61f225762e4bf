"""Runs the rows of several sessions through a part; `select` chooses how, and on which backend."""
