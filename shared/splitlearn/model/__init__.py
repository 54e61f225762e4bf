"""One causal language model: its layout, the parts that it is cut into, and what parts keep of a session."""
