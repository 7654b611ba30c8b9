"""Scores of encoders on subjects that they were not trained on."""
