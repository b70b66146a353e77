"""Objectives: pure functions of a model's outputs and a batch that return `(sum, weight)`."""
