"""A checkpoint on disk: written aside, checksummed, renamed whole; found, proven and kept. Files only, no ranks.

OUTPUT/checkpoints/step20/manifest.json                 size and SHA-256 of every other file, and what it is of
                          dsparse_patterns.safetensors  the patterns and their past
                          *.pt                          DeepSpeed's own files
                   .saving-step40/                      a save under way, or one that was cut off
                   latest                               the tag of the last whole one
"""
