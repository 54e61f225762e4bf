"""Speculation: guesses at the next tokens run beside the one that a session is at, so that a trip gives several."""
