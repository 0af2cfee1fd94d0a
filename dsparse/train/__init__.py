"""The training program: what a run is, the loop, what it writes, and how it goes on after a stop.

`pretrain.main` is what `launch/pretrain.py` calls. Ranks and DeepSpeed are known only through the engine object and
`dsparse.engine.world`.
"""
