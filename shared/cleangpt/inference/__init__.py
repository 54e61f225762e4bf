"""Text from a model, through transformers' own generation code."""
