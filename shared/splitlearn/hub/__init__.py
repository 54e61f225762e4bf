"""A model by its name: each part fetches its own bytes from the hub, and converts them into a cache."""
