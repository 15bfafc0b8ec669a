"""The mathematics of training: pure functions of tensors, free of config and of files.

Losses return `LossOutput(loss_sum, count, metrics)`; whoever holds the global count divides once. Inputs in half
precision are raised to fp32 before any arithmetic; fp64 stays fp64. Everything is in nats, and everything is minimised.
The entries of `metrics` are means over the call's own count, except those whose name ends in `_max`.
"""
