"""`lighthouse up`: the whole of Lighthouse on this machine, its servers included."""
