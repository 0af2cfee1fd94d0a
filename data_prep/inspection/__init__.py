"""What a person sees of a store: samples in words, a summary, a page of figures. `data_prep/inspect.py` shows it."""
