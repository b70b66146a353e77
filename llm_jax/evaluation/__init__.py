"""How good a model is: perplexity over a split, and what its samples are worth."""
