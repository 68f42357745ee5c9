"""Cost of computations, from the config alone: parameters, FLOPs, bytes, seconds. Formulas: docs/cost_model.md."""
