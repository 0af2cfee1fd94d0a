"""Models and what is asked of them: BERT from presets, and which of a model's weights become sparse.

Nothing is imported here, so that choosing the sparse weights of some other model does not load `transformers`.
"""
