"""From documents to a token store: sources, cleaning, sentences, vocabulary, files, verification.

prepare.py and verify.py are the commands; each other module is one step of the way, usable by itself.
"""
