"""A long run: its directory, its files, and what keeps them whole when something goes wrong."""
