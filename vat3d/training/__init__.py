"""Training and tuning of a tokenizer."""
