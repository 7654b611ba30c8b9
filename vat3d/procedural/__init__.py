"""Procedural shapes for training."""
