"""The client service: text, token ids and logits stay here."""
