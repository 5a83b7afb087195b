"""The shipped checkpoint and its sample pictures: data only. README.md says what it can do."""
