"""The codec's network: encoder, quantizer, decoder."""
