"""The story of a run, and what it trains with: steps, optimizers, stages."""
