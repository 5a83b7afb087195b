"""What a session is asked for most: boxes, descriptions, transcripts."""
