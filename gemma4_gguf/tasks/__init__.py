"""Tasks: boxes, descriptions and transcripts, what a session is asked for most."""
