"""Which texts are there twice, word for word or nearly, in a corpus of any size.

Three steps: `signature` turns texts into what they are recognised by, one file for each part of the corpus, in as many
processes as there are; `find` joins these files in one process and in bounded memory; what it finds is applied to each
part by itself.
"""
