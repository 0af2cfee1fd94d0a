"""Pre-trains a dynamically sparse BERT; a thin door to `dsparse.train.pretrain`. See --help."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

# A script's own folder is on the path, not the checkout it belongs to; whose code runs is not to depend on what is
# installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# Imports take seconds. Ctrl-C in that time ends the process without a traceback; then the program sees to signals.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from dsparse.train.pretrain import main

if __name__ == "__main__":
    main()
