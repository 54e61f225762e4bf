"""Answers that follow a schema, a regular expression, a list of choices or a grammar: masks over the vocabulary."""
