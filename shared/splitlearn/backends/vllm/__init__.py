"""vLLM's model runner serves a part's layers, stepped by our engine."""
