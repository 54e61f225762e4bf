"""What a part remembers of its sessions, and how much room there is for it."""
