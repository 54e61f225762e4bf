"""The trunk's replicas: where they are, how they are, and which one a session is placed on."""
