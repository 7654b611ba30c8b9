"""Networks, the priors and noise levels that they are made of, and model folders."""
