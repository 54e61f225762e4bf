"""The trunk worker: hidden states in, hidden states out."""
