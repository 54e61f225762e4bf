"""Measures how much of the tokens a trunk worker can read off what it is sent, keeps and returns."""
