"""What lies between text and token ids: chat templates, the vocabulary's bytes, text token by token, prompts."""
