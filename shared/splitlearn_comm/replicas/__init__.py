"""The replicas of a server: where they are, how they are, and which one a session is placed on."""
