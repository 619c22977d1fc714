"""The stages of the pipeline and the tools beside it, each started as `python -m stages.<name>`."""

import gc
import sys

if sys.argv[0] == "-m":  # this process is one of them: Python is still looking for the module to start
    gc.disable()  # until stages.entry.run: looking for garbage among what is imported takes a fifth of the start
