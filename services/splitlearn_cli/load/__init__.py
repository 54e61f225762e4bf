"""A load generator for OpenAI's API: `plan` decides what is sent, `drive` sends it, `summary` computes results."""
