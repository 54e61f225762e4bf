"""Text generation with a model, through transformers' own code."""
