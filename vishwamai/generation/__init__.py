"""Making tokens: sampling, prefill and decoding in compiled loops, beams, and the scores of given texts."""
