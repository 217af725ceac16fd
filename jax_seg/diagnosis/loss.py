"""Checks of the loss: what answers it asks for, and how its terms share the gradient."""

from jax_seg.diagnosis import loss_answers, loss_gradients

CHECKS = (*loss_answers.CHECKS, *loss_gradients.CHECKS)
