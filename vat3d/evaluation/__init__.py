"""Rate-distortion beside decimation and Draco."""
