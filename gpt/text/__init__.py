"""The text that a model learns: finding and reading it, its tokens, what is kept of both."""
