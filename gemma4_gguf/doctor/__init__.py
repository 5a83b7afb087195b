"""Is this installation right, and on which devices."""
