"""`splitlearn chat`: a conversation with a running client service in the terminal."""
