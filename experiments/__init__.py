"""Entry points: one absl main per task, each a short composition of library functions."""
