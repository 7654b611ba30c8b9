"""Networks, priors and model folders."""
