"""What all stages share: part files, ordered workers, keys by which a finished stage is known, and the runner.

A stage reads the part files of the stage before it and writes as many of its own, one by one and each whole or not at
all. So a run that was killed goes on with the parts that are missing, and nothing depends on the number of workers.
"""
