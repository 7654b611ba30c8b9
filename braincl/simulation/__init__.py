"""Simulated subjects and their optimal predictors."""
