"""What a training step would do on accelerators that are not there: its own compiler is asked."""
