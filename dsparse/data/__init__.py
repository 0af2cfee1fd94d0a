"""Batches from text: a token store on disk, pairs of segments for next-sentence prediction, masked words.

Everything random is a hash of (seed, epoch, sample), and the order of samples is a permutation that can be evaluated at
any position. So the n-th global batch of a run is a function of the store and the run's settings: the number of ranks,
of worker processes and of restarts does not enter. This package knows nothing of ranks beyond two integers, and nothing
of models.
"""
