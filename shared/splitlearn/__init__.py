"""Cut a Hugging Face causal language model into parts and run them."""
