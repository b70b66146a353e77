"""New examples from given ones, each draw a function of (seed, example): text, audio."""
