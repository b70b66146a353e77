"""From a loss to a trained model: state, step, loop, checkpoints and what a run shows."""
